"""Studies: searches over a version's configurations, kept trial by trial until they have an answer."""

from __future__ import annotations

import builtins
import json
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, insert, select, update

from modelyard.domain.errors import Conflict, NotFound
from modelyard.domain.study import Answer, Study, Trial
from modelyard.domain.versions import ModelRef
from modelyard.hub.database import Database
from modelyard.hub.records import LEAST_PREFIX, content_digest, lock_model, only_with_prefix, timestamp, version_id
from modelyard.hub.schema import measurements, studies, study_trials, versions
from modelyard.hub.values import Clock, StudyQuery

T = TypeVar("T")
_IN_BATCH = 500  # ids per IN list; SQLite's oldest limit is 999 parameters


class Studies:
    """The studies of the hub. Trials are only ever added, and an answered study never changes.

    Safe for use by many threads and processes at once: of two that go on with one study, the second to save a trial
    gets Conflict.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def save(self, study: Study) -> Study:
        """Keep a study, or what was added to it: further trials, its answer. All or nothing.

        An empty `id` or `created_at` is filled in. Saving what is there already changes nothing. Raises NotFound for
        an unknown version or a measurement that is not of it, Conflict where the hub has this study with other
        settings, other trials or an answer.
        """
        new = replace(
            study,
            id=study.id or f"std-{uuid.uuid4().hex[:20]}",
            created_at=study.created_at or timestamp(self._clock()),
        )
        with self._database.write() as connection:
            lock_model(connection, new.model)
            row = version_id(connection, ModelRef(new.model, version=new.version))
            present = next(iter(load_studies(connection, studies.c.id == new.id)), None)
            if present is not None and _settings(present) != _settings(new):
                raise Conflict(f"study {new.id} has other settings in the hub", hint="use a new id for a new study")
            kept = _kept_trials(present, new)
            _check_measurements(connection, row, new.trials[kept:])
            if present is None:
                _insert(connection, row, new)
            elif present.answer is None and new.answer is not None:
                finished = update(studies).where(studies.c.id == new.id)
                connection.execute(finished.values(answer=_encode(new.answer)))
            added = [
                {"study_id": new.id, "position": position, "body": _encode(trial)}
                for position, trial in enumerate(new.trials[kept:], kept)
            ]
            if added:
                connection.execute(insert(study_trials), added)
        return new

    def get(self, study_id: str) -> Study:
        """The study with this id, or the only one whose id begins so (six characters at least).

        Raises NotFound; InvalidInput where several begin so.
        """
        with self._database.read() as connection:
            found = load_studies(connection, studies.c.id == study_id)
            if not found:
                only = only_with_prefix(connection, studies.c.id, study_id, "studies")
                found = load_studies(connection, studies.c.id == only) if only else []
        if not found:
            raise NotFound(
                f"there is no study '{study_id}'",
                hint=f"yard studies ls REF shows the ids; their first {LEAST_PREFIX} characters may do",
            )
        return found[0]

    def find(self, query: StudyQuery) -> builtins.list[Study]:
        """The studies that `query` asks for, newest first."""
        conditions = _conditions(query)
        with self._database.read() as connection:
            return load_studies(connection, *conditions, newest=query.limit)

    def list(self, ref: ModelRef) -> builtins.list[Study]:
        """The studies of a version, oldest first. Raises NotFound."""
        with self._database.read() as connection:
            return load_studies(connection, studies.c.version_id == version_id(connection, ref))

    def latest(self, ref: ModelRef) -> Study | None:
        """The newest study of a version, finished or not. Raises NotFound."""
        with self._database.read() as connection:
            found = load_studies(connection, studies.c.version_id == version_id(connection, ref), newest=1)
        return found[0] if found else None


def load_studies(connection: Connection, *conditions: ColumnElement[bool], newest: int | None = None) -> list[Study]:
    """The studies that meet all conditions with their trials: oldest first, or the `newest` so many, newest first."""
    query: Select[Any] = select(studies.c.id, studies.c.body, studies.c.answer).join(versions).where(*conditions)
    order = studies.c.sequence if newest is None else studies.c.sequence.desc()
    rows = connection.execute(query.order_by(order).limit(newest)).all()
    trials: dict[str, list[Trial]] = {str(row.id): [] for row in rows}
    ids = list(trials)
    for start in range(0, len(ids), _IN_BATCH):
        wanted = select(study_trials).where(study_trials.c.study_id.in_(ids[start : start + _IN_BATCH]))
        for r in connection.execute(wanted.order_by(study_trials.c.study_id, study_trials.c.position)):
            trials[str(r.study_id)].append(_decode(r.body, Trial))
    return [_study(row, trials[str(row.id)]) for row in rows]


def _study(row: Row[Any], trials: Iterable[Trial]) -> Study:
    answer = None if row.answer is None else _decode(row.answer, Answer)
    return replace(_decode(row.body, Study), trials=tuple(trials), answer=answer)


def _conditions(query: StudyQuery) -> list[ColumnElement[bool]]:
    exact = [
        (versions.c.model, query.model),
        (versions.c.number, query.version),
        (studies.c.strategy, query.strategy),
        (studies.c.fingerprint, query.fingerprint),
        (studies.c.settings, None if query.like is None else _settings(query.like)),
    ]
    conditions = [column == wanted for column, wanted in exact if wanted is not None]
    if query.finished is not None:
        conditions.append(studies.c.answer.is_not(None) if query.finished else studies.c.answer.is_(None))
    return conditions


def _settings(study: Study) -> str:
    """Digest of what a study was asked: all but its name and what it found."""
    return content_digest(replace(study, id="", trials=(), answer=None, created_at=""))


def _kept_trials(present: Study | None, new: Study) -> int:
    """How many of the trials of `new` the hub has already. Raises Conflict where it has others, or an answer.

    Trials are compared as they are written: what is NaN equals itself then.
    """
    if present is None:
        return 0
    have, given = [_encode(t) for t in present.trials], [_encode(t) for t in new.trials]
    if present.answer is not None and (have, _encode(present.answer)) != (given, _encode(new.answer)):
        raise Conflict(f"study {new.id} has its answer: it changes no more", hint="begin a new study with --again")
    if have != given[: len(have)]:
        raise Conflict(
            f"study {new.id} was gone on with by another process",
            why=f"the hub has {len(have)} trials of it that this process did not make",
            hint=f"wait until the other one has ended; yard studies show {new.id}",
        )
    return len(have)


def _check_measurements(connection: Connection, version: int, trials: Iterable[Trial]) -> None:
    """Raise NotFound where a trial names a measurement that the hub does not have of this version."""
    named = {m for trial in trials if trial.result for m in trial.result.measurements}
    if not named:
        return
    query = select(measurements.c.id).where(measurements.c.version_id == version, measurements.c.id.in_(named))
    missing = named - {str(r[0]) for r in connection.execute(query)}
    if missing:
        raise NotFound(
            f"this version has no measurement '{min(missing)}'", hint="record a trial's measurements before the trial"
        )


def _insert(connection: Connection, row: int, new: Study) -> None:
    connection.execute(
        insert(studies).values(
            id=new.id,
            version_id=row,
            settings=_settings(new),
            fingerprint=new.fingerprint,
            strategy=new.strategy,
            body=_encode(replace(new, trials=(), answer=None)),
            answer=None if new.answer is None else _encode(new.answer),
            created_at=new.created_at,
        )
    )


def _encode(value: object) -> str:
    """As `to_json`, but with infinities and NaN kept: the loss of a failed trial is infinite."""
    return json.dumps(msgspec.to_builtins(value), separators=(",", ":"))


def _decode(text: str, kind: type[T]) -> T:
    return msgspec.convert(json.loads(text), kind)
