"""From a VersionQuery to SQL: newest first, one page by key, never a scan of JSON."""

from __future__ import annotations

import base64
import binascii
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from modelyard.domain.errors import InvalidInput
from modelyard.domain.versions import Version
from modelyard.hub.records import load_versions
from modelyard.hub.schema import models, version_labels, version_metrics, versions
from modelyard.hub.values import Page, VersionQuery
from modelyard.hub.words import matching
from modelyard.manifest import framework_name

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}


_RARE = 500  # what fewer versions meet is looked up first, by id; commoner values are walked newest first


@dataclass(frozen=True)
class _Join:
    """A filter by an index beside `versions`: its table, its column of version row ids, what must hold there."""

    source: Any
    key: ColumnElement[int]
    condition: ColumnElement[bool]


def find_versions(connection: Connection, query: VersionQuery) -> Page[Version]:
    """The page of versions that `query` asks for. Raises InvalidInput for a cursor that is none of ours."""
    joins = [*_labels(query), *_metrics(query)]
    position = None if query.cursor is None else _position(query.cursor)
    if query.text:
        found = matching(connection.dialect.name, query.text)
        if found is None:
            return Page(())
        joins.insert(0, _Join(*found))
    rare = _rarest(connection, _filters(query, joins))
    if rare is not None and not rare[1]:
        return Page(())
    statement = _statement(query, joins, rare, position)
    ids = [int(row[0]) for row in connection.execute(statement)]
    page, more = ids[: query.limit], len(ids) > query.limit
    return Page(tuple(load_versions(connection, page)), _cursor(page[-1]) if more else None)


def _filters(query: VersionQuery, joins: list[_Join]) -> list[tuple[ColumnElement[int], Select[int]]]:
    """Each filter by itself: a column of `versions`, and the values of it that meet the filter, by an index."""
    v = versions.c
    found: list[tuple[ColumnElement[int], Select[int]]] = [(v.id, select(j.key).where(j.condition)) for j in joins]
    if query.name:
        found.append((v.model_id, select(models.c.id).where(_like(models.c.name, query.name))))
    found += [(v.id, select(v.id).where(condition)) for condition in _equalities(query)]
    return found if len(found) > 1 or query.name else []


def _rarest(
    connection: Connection, filters: list[tuple[ColumnElement[int], Select[int]]]
) -> tuple[ColumnElement[int], list[int]] | None:
    """The most selective filter as a short list of ids; None where all are common (or there is one at most)."""
    rarest: tuple[ColumnElement[int], list[int]] | None = None
    for column, statement in filters:
        ids = [int(row[0]) for row in connection.execute(statement.limit(_RARE + 1))]
        if len(ids) <= _RARE and (rarest is None or len(ids) < len(rarest[1])):
            rarest = column, ids
    return rarest


def _statement(
    query: VersionQuery,
    joins: list[_Join],
    rare: tuple[ColumnElement[int], list[int]] | None,
    position: int | None,
) -> Select[int]:
    """Where all filters are common: walk an index that is ordered by version id, so that a page ends early.

    Such a page is ordered by the id column of the first join and not by `versions.id`: SQLite does not see through
    the equality of the two and would sort every match.
    """
    key: ColumnElement[int] = joins[0].key if joins and rare is None else versions.c.id
    statement: Select[int] = select(versions.c.id)
    for join in joins:
        statement = statement.join(join.source, join.key == versions.c.id).where(join.condition)
    if query.name:
        statement = statement.where(_like(versions.c.model, query.name))
    for condition in _equalities(query):
        statement = statement.where(condition)
    if rare is not None:
        statement = statement.where(rare[0].in_(rare[1]))
    if position is not None:
        statement = statement.where(key < position)
    return statement.order_by(key.desc()).limit(query.limit + 1)


def _equalities(query: VersionQuery) -> list[ColumnElement[bool]]:
    wanted = ((versions.c.task, query.task), (versions.c.framework, framework_name(query.framework)))
    return [column == value for column, value in wanted if value]


def _labels(query: VersionQuery) -> list[_Join]:
    wanted = [("tag", tag) for tag in dict.fromkeys(query.tags)]
    if query.format:
        wanted.append(("format", query.format))
    found = []
    for kind, value in wanted:
        label = version_labels.alias()
        found.append(_Join(label, label.c.version_id, (label.c.kind == kind) & (label.c.value == value)))
    return found


def _metrics(query: VersionQuery) -> list[_Join]:
    found = []
    for metric in query.metrics:
        if metric.operator not in _COMPARE:
            raise InvalidInput(f"'{metric.operator}' is no comparison", hint=f"use one of {' '.join(_COMPARE)}")
        source = version_metrics.alias()
        holds = _COMPARE[metric.operator](source.c.value, metric.value)
        found.append(_Join(source, source.c.version_id, (source.c.name == metric.name) & holds))
    return found


def _like(column: ColumnElement[str], name: str) -> ColumnElement[bool]:
    return column.like(_pattern(name), escape="\\")


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
