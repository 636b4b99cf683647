"""Measure a whole space once: every point as a search would measure it, the best again with many more blocks."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from msgspec import structs

from bench.tune import models
from bench.tune.data import Cell, Exhaustive
from bench.tune.plan import Task
from modelyard.bootstrap import Yard
from modelyard.config import Settings
from modelyard.domain.errors import BackendFailed, Unavailable, Unsupported
from modelyard.domain.study import Point, Prediction, TrialState
from modelyard.profile import fingerprint
from modelyard.tune import ranking
from modelyard.tune.ports import Outcome
from modelyard.workflow.progress import Progress, silent
from modelyard.workflow.trying import Trying
from modelyard.workflow.values import TuneRequest

BEST = 12
"""Points measured again: the winner's curse of the others is smaller than their distance to these."""
AGAIN_BLOCKS = 20
AGAIN_SEED = 9_973


def measure(task: Task, home: Path, *, most: int | None = None) -> Exhaustive:
    """Measure the task's space with a hub of its own in `home`; what was measured there before is not measured again.

    `most`: stop after so many points (to try it out).
    """
    with Yard.open(Settings.read({"MODELYARD_HOME": str(home)})) as yard:
        request = TuneRequest(
            aim=task.aim, space=task.space, blocks=task.blocks, requests=task.requests, duration_s=task.duration_s
        )
        prepared = yard.tuning.prepare(_registered(yard, task, home), request, _told)
        trying = Trying(yard.profiling, prepared.version, prepared.meaning, task.aim, prepared.workload, silent)
        points = list(prepared.search.space.points())[:most]
        if prepared.search.prepare is not None:
            prepared.search.prepare(points)
        cells = []
        for k, point in enumerate(points, 1):
            prediction = prepared.search.predict(point) if prepared.search.predict else None
            cells.append(_cell(trying, point, prediction))
            _say(f"{task.model} {k}/{len(points)} {point}: {_shown(cells[-1])}")
        return Exhaustive(
            task.model,
            task.aim,
            prepared.search.space.text,
            prepared.search.default,
            fingerprint(),
            datetime.now(UTC).isoformat(timespec="seconds"),
            tuple(_again(trying, cells)),
        )


def _registered(yard: Yard, task: Task, home: Path) -> str:
    manifest = models.get(task.model).build(home / "models")
    version = yard.register(manifest, trust=True).version
    yard.convert(version.ref, task.artifacts[1:])
    return version.ref


def _cell(trying: Trying, point: Point, prediction: Prediction | None) -> Cell:
    began = time.monotonic()
    try:
        outcome = trying.measure(point)
    except (BackendFailed, Unavailable, Unsupported) as error:
        outcome = Outcome(TrialState.FAILED, detail=str(error))
    took = round(time.monotonic() - began, 2)
    return Cell(point, outcome.state, took, prediction, outcome.result, None, outcome.detail)


def _again(trying: Trying, cells: Sequence[Cell]) -> list[Cell]:
    """The best cells with many more blocks under fresh seeds, all of them in turns: the machine's speed drifts."""
    ranked = sorted((c for c in cells if c.result and c.result.feasible), key=lambda c: ranking.score(c.result))
    best = [c.point for c in ranked[:BEST]]
    _say(f"again, in turns: {len(best)}")
    longer = replace(trying, workload=replace(trying.workload, blocks=AGAIN_BLOCKS))
    found = dict(zip(best, longer.confirm(best, AGAIN_SEED), strict=True))
    return [structs.replace(c, again=found[c.point].result) if c.point in found else c for c in cells]


def _shown(cell: Cell) -> str:
    if cell.result is None:
        return f"{cell.state}: {cell.detail}"
    expected = "" if cell.prediction is None else f" (expected {cell.prediction.losses[0]:.3f})"
    return f"loss {cell.result.losses[0]:.3f}{expected}{'' if cell.result.feasible else ' infeasible'}"


def _told(progress: Progress) -> None:
    _say(progress.message)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
