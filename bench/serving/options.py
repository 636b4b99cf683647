"""What a run is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelyard.domain.workload import Protocol


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. `seconds` per cell (a multiple for slow models); `cold_starts` of each system on the first model."""

    systems: tuple[str, ...]
    models: tuple[str, ...]
    protocols: tuple[Protocol, ...]
    connections: tuple[int, ...] | None
    seconds: float
    rounds: int
    threads: int
    cold_starts: int
    cache: Path
