"""The profiler: measures services under load, one alone or several in turns."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modelyard.domain.placement import apart
from modelyard.domain.tensors import Tensors
from modelyard.domain.workload import Workload
from modelyard.profile.cell import Cell, Conditions, MeasuredCell, MeasuredService
from modelyard.profile.fingerprint import fingerprint
from modelyard.profile.kept_blocks import cell_key
from modelyard.profile.plan import WarmUpRule
from modelyard.profile.price import Price
from modelyard.profile.statistics import BlockSummary
from modelyard.profile.verdicts import Rules

ABANDONED = "abandoned"
"""Purpose of a measurement that was given up before all its blocks were taken."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the profiler is doing: `stage` is `warm-up` or `block`; `done` of `total` blocks are taken."""

    stage: str
    done: int
    total: int


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _silent(_: Progress) -> None:
    """Nobody listens."""


def _never(_: Sequence[BlockSummary]) -> str:
    """Every block is taken."""
    return ""


class Profiler:
    """Makes measurements. Not thread-safe: two measurements at once would disturb each other.

    `work_dir` holds plans and samples while and after they are made; each cell has a directory of its own there, for
    one process at a time. A measurement whose process was killed goes on with its next block.
    `clock` stamps measurements (durations come from the monotonic clock). `traces` is where recordings are kept.
    `client_cpus`: where the load client runs; by default on the last core, which `domain.placement` leaves to it.
    """

    def __init__(
        self,
        work_dir: Path,
        price: Price | None = None,
        clock: Callable[[], datetime] = _utc_now,
        *,
        rules: Rules | None = None,
        warm_up: WarmUpRule | None = None,
        client_cpus: Sequence[int] | None = None,
        traces: Path | None = None,
    ) -> None:
        self._work_dir = work_dir
        self._price = price or Price()
        self._clock = clock
        self._rules = rules or Rules()
        self._warm_up = warm_up or WarmUpRule()
        last = apart(sorted(os.sched_getaffinity(0)), 1)[1]
        self._client_cpus = last if client_cpus is None else tuple(client_cpus)
        self._traces = traces

    def measure(
        self,
        target: MeasuredService,
        workload: Workload,
        payloads: Sequence[Tensors],
        *,
        purpose: str = "profile",
        progress: Callable[[Progress], None] = _silent,
    ) -> MeasuredCell:
        """Measure one service under one workload. Each payload is the inputs of one request (`workload.batch` rows).

        Raises Unavailable where the service cannot be reached, BackendFailed where the client fails, InvalidInput.
        A bad result (failures, saturation, a slow client) is no error: the verdict says it.
        """
        (cell,) = self.measure_interleaved([target], workload, payloads, purpose=purpose, progress=progress)
        return cell

    def measure_interleaved(
        self,
        targets: Sequence[MeasuredService],
        workload: Workload,
        payloads: Sequence[Tensors],
        *,
        purpose: str = "compare",
        progress: Callable[[Progress], None] = _silent,
        hopeless: Callable[[Sequence[BlockSummary]], str] = _never,
    ) -> list[MeasuredCell]:
        """Measure several running services block by block in turns (ABBA), with the same schedules and payloads.

        Slow changes of the machine then hit all of them alike, and `compare` can pair the blocks. `hopeless` is asked
        after each block of a service but its last; what it returns ends that service's measurement, whose purpose is
        then `abandoned` and whose verdict says why.
        """
        total = workload.blocks * len(targets)
        conditions = self._conditions()
        with ExitStack() as stack:
            cells = [
                stack.enter_context(self._cell(k, target, workload, payloads, conditions))
                for k, target in enumerate(targets)
            ]
            for cell in cells:
                progress(Progress("warm-up", 0, total))
                cell.warm_up()
            done = 0
            why: dict[int, str] = {}
            for number in range(workload.blocks):
                for k, cell in list(enumerate(cells))[:: 1 if number % 2 == 0 else -1]:
                    if k not in why:
                        progress(Progress("block", done, total))
                        cell.take_block(number)
                        if number + 1 < workload.blocks and (reason := hopeless(cell.summaries)):
                            why[k] = f"abandoned after {number + 1} of {workload.blocks} blocks: {reason}"
                    done += 1
            measured = [
                cell.finish(ABANDONED if k in why else purpose, abandoned=why.get(k, ""))
                for k, cell in enumerate(cells)
            ]
            progress(Progress("block", total, total))
            return measured

    def _conditions(self) -> Conditions:
        return Conditions(
            price=self._price,
            rules=self._rules,
            warm_up=self._warm_up,
            fingerprint=fingerprint(),
            now=self._clock,
            client_cpus=self._client_cpus,
            traces=self._traces,
        )

    @contextmanager
    def _cell(
        self,
        place: int,
        target: MeasuredService,
        workload: Workload,
        payloads: Sequence[Tensors],
        conditions: Conditions,
    ) -> Iterator[Cell]:
        """A cell with a directory of its own.

        It stays where the process is killed or interrupted after a block, for the same cell to go on with.
        """
        node = conditions.fingerprint.id
        key = cell_key(target.model, target.version, target.configuration, workload, node, place)
        directory = self._work_dir / f"cell-{key}"
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with Cell(directory, target, workload, payloads, conditions) as cell:
                yield cell
        except BaseException as error:
            if isinstance(error, Exception) or not any(directory.glob("kept-*.json")):
                shutil.rmtree(directory, ignore_errors=True)
            raise
        for leftover in (*directory.glob("block-*.npz"), *directory.glob("kept-*.json"), directory / "payloads.bin"):
            leftover.unlink(missing_ok=True)
