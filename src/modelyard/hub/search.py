"""From a VersionQuery to SQL: newest first, one page by key, never a scan of JSON."""

from __future__ import annotations

import base64
import binascii
import operator
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from modelyard.domain.errors import InvalidInput
from modelyard.domain.versions import Version
from modelyard.hub.records import load_versions
from modelyard.hub.schema import version_labels, version_metrics, versions
from modelyard.hub.values import MetricFilter, Page, VersionQuery
from modelyard.hub.words import matching

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}


def find_versions(connection: Connection, query: VersionQuery) -> Page[Version]:
    """The page of versions that `query` asks for. Raises InvalidInput for a cursor that is none of ours."""
    statement = _statement(connection.dialect.name, query)
    ids = [int(row[0]) for row in connection.execute(statement)]
    page, more = ids[: query.limit], len(ids) > query.limit
    return Page(tuple(load_versions(connection, page)), _cursor(page[-1]) if more else None)


def _statement(dialect: str, query: VersionQuery) -> Select[int]:
    """Joins on indexes that are ordered by version id, so that a page of a common value ends early.

    The page is ordered by the id column of the first join and not by `versions.id`: SQLite does not see through
    the equality of the two and would sort every match.
    """
    key: ColumnElement[int] = versions.c.id
    statement: Select[Any] = select(versions.c.id)
    for joined in [*_labels(query), *(_metric(metric) for metric in query.metrics)]:
        source, condition = joined
        if key is versions.c.id:
            key = source.c.version_id
        statement = statement.join(source, source.c.version_id == versions.c.id).where(condition)
    if query.name:
        statement = statement.where(versions.c.model.like(_pattern(query.name), escape="\\"))
    if query.task:
        statement = statement.where(versions.c.task == query.task)
    if query.framework:
        statement = statement.where(versions.c.framework == query.framework)
    if query.text:
        words = matching(dialect, query.text)
        statement = statement.where(versions.c.id.in_(words)) if words is not None else statement.where(_NEVER)
    if query.cursor is not None:
        statement = statement.where(key < _position(query.cursor))
    return statement.order_by(key.desc()).limit(query.limit + 1)


_NEVER = versions.c.id < 0


def _labels(query: VersionQuery) -> list[tuple[Any, ColumnElement[bool]]]:
    wanted = [("tag", tag) for tag in dict.fromkeys(query.tags)]
    if query.format:
        wanted.append(("format", query.format))
    found: list[tuple[Any, ColumnElement[bool]]] = []
    for kind, value in wanted:
        label = version_labels.alias()
        found.append((label, (label.c.kind == kind) & (label.c.value == value)))
    return found


def _metric(metric: MetricFilter) -> tuple[Any, ColumnElement[bool]]:
    if metric.operator not in _COMPARE:
        raise InvalidInput(f"'{metric.operator}' is no comparison", hint=f"use one of {' '.join(_COMPARE)}")
    source = version_metrics.alias()
    return source, (source.c.name == metric.name) & _COMPARE[metric.operator](source.c.value, metric.value)


def _pattern(name: str) -> str:
    escaped = name.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    if "*" in name or "?" in name:
        return escaped.replace("*", "%").replace("?", "_")
    return f"%{escaped}%"


def _cursor(position: int) -> str:
    return base64.urlsafe_b64encode(b"v%d" % position).decode().rstrip("=")


def _position(cursor: str) -> int:
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        if not raw.startswith(b"v"):
            raise ValueError(cursor)
        return int(raw[1:])
    except (ValueError, binascii.Error) as error:
        raise InvalidInput(
            f"'{cursor}' is not a cursor of this listing", hint="pass the `next` of the previous page, or none"
        ) from error
