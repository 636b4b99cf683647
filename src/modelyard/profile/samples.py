"""Raw samples of a measurement: one compressed `.npz`, one row per request, nothing left out.

| array | type | meaning |
|---|---|---|
| `block` | int32 | block of the measurement, from 0 |
| `scheduled_s` | float64 | when the request was due, seconds from its block's start (closed loop: when it was sent) |
| `dispatched_s` | float64 | when the client took it up; `dispatched_s - scheduled_s` is the send lag |
| `sent_s` | float64 | when it was written to a connection |
| `completed_s` | float64 | when its response was complete, or it was given up |
| `status` | int16 | 0 ok; 100 to 999 an HTTP status; 1000 + n a gRPC status n; -1 timed out; -2 connection lost |
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput, NotFound

OK: Final = 0
TIMED_OUT: Final = -1
CONNECTION_LOST: Final = -2
GRPC_BASE: Final = 1000

_ARRAYS: Final = ("block", "scheduled_s", "dispatched_s", "sent_s", "completed_s", "status")


@dataclass(frozen=True, slots=True)
class Samples:
    """Columns of equal length, one row per request, in the order of the schedule; times in seconds."""

    block: NDArray[np.int32]
    scheduled_s: NDArray[np.float64]
    dispatched_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    completed_s: NDArray[np.float64]
    status: NDArray[np.int16]

    def __post_init__(self) -> None:
        if len({len(getattr(self, name)) for name in _ARRAYS}) != 1:
            raise InvalidInput("sample arrays differ in length")

    def __len__(self) -> int:
        return len(self.status)

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which requests were answered with success."""
        return np.equal(self.status, OK)

    def latencies_ms(self, timeout_s: float) -> NDArray[np.float64]:
        """Latency of every request from its *scheduled* time, in ms.

        A failed request counts as one that took the whole timeout (or longer, if it did): a quick refusal must not
        look like a quick answer.
        """
        latency_s = self.completed_s - self.scheduled_s
        return np.where(self.ok, latency_s, np.maximum(latency_s, timeout_s)) * 1e3

    def blocks(self) -> list[Samples]:
        """The blocks, in the order of their numbers."""
        return [self._pick(self.block == number) for number in np.unique(self.block)]

    def _pick(self, rows: NDArray[np.bool_]) -> Samples:
        return Samples(*(getattr(self, name)[rows] for name in _ARRAYS))

    @classmethod
    def join(cls, parts: Sequence[Samples]) -> Samples:
        """All rows of `parts`, in order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS))

    def save(self, path: Path) -> None:
        """Write the compressed `.npz`."""
        with path.open("wb") as file:
            np.savez_compressed(file, **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Read what `save` wrote. Raises NotFound, InvalidInput."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(*(arrays[name] for name in _ARRAYS))
        except FileNotFoundError as error:
            raise NotFound(f"no raw samples at {path}", hint="profile the version again: yard profile") from error
        except (KeyError, ValueError, TypeError, OSError, EOFError, BadZipFile, zlib.error) as error:
            raise InvalidInput(f"{path} holds no raw samples", why=str(error)) from error
