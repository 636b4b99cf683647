"""The blocks of an unfinished cell on disk: a killed measurement goes on with the next block."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from modelyard.domain.configuration import Configuration
from modelyard.domain.workload import Workload
from modelyard.profile.plan import BlockDone
from modelyard.profile.resources import Usage
from modelyard.profile.stages import Snapshot

OLDEST_S: Final = 1800.0
"""An older block is measured again: a machine is not the same for hours."""


class KeptBlock(msgspec.Struct, frozen=True):
    """What is known of a block besides its samples, which are in the file that `done` names. `at`: Unix time."""

    done: BlockDone
    usage: Usage
    stages: tuple[Snapshot, Snapshot]
    noisy: bool
    canaries_s: tuple[float, ...]
    at: float


class KeptBlocks:
    """The finished blocks of one cell in its directory. One process at a time."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._directory, self._clock = directory, clock

    def keep(self, number: int, block: KeptBlock) -> None:
        """Keep a finished block; it is there as a whole or not at all."""
        path = self._path(number)
        part = path.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(block))
        part.replace(path)

    def find(self, number: int) -> KeptBlock | None:
        """The block, where it was finished lately and its samples are still there."""
        with suppress(FileNotFoundError, msgspec.MsgspecError):
            found = msgspec.json.decode(self._path(number).read_bytes(), type=KeptBlock)
            if 0 <= self._clock() - found.at <= OLDEST_S and Path(found.done.samples).exists():
                return found
        return None

    def _path(self, number: int) -> Path:
        return self._directory / f"kept-{number}.json"


def cell_key(model: str, version: int, configuration: Configuration, workload: Workload, node: str, place: int) -> str:
    """Names the directory of a cell: the same cell has the same. `place` among those measured together."""
    parts = msgspec.json.encode((model, version, configuration, workload, node, place))
    return hashlib.sha256(parts).hexdigest()[:24]
