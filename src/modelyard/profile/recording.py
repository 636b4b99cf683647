"""Recorded arrivals, and replaying a part of them: the same for every layout a trace file may have.

A recording holds either the instant of each request, or the number of requests in each of many equal intervals. It is
known by the digest of its content and kept under it, so that a measurement can be made again after the file it was
read from has moved or changed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.workload import Trace

_LEAST_PREFIX: Final = 8


@dataclass(frozen=True, slots=True)
class Recording:
    """Instants in seconds from the first, ascending (`interval_s` None), or counts of intervals of `interval_s`."""

    values: NDArray[np.float64]
    interval_s: float | None = None

    def __post_init__(self) -> None:
        if self.interval_s is not None and self.interval_s <= 0:
            raise InvalidInput(f"an interval of {self.interval_s:g} s is none")
        if not len(self.values) or not (self.values.sum() > 0 or self.interval_s is None):
            raise InvalidInput("the trace holds no request")

    @property
    def digest(self) -> str:
        """SHA-256 of the content in hex."""
        kind = "instants" if self.interval_s is None else f"counts per {self.interval_s!r} s"
        return hashlib.sha256(kind.encode() + self.values.astype("<f8").tobytes()).hexdigest()

    @property
    def requests(self) -> int:
        """Requests of the whole recording."""
        return len(self.values) if self.interval_s is None else int(self.values.sum())

    @property
    def span_s(self) -> float:
        """Seconds from its beginning to its end."""
        return float(self.values[-1]) if self.interval_s is None else len(self.values) * self.interval_s

    def rate_rps(self, start_s: float, duration_s: float) -> float:
        """Mean requests per second between two instants as recorded. Raises InvalidInput where there is none."""
        if start_s >= self.span_s and start_s > 0:
            raise InvalidInput(f"the trace ends after {self.span_s:g} s, before its start at {start_s:g} s")
        end_s = min(start_s + duration_s, self.span_s)
        found = self._before(end_s) - self._before(start_s)
        if found <= 0 or end_s <= start_s:
            raise InvalidInput(
                f"the trace has no two requests between {start_s:g} and {start_s + duration_s:g} s",
                hint="take another or a longer part: --trace-start, --duration",
            )
        return found / (end_s - start_s)

    def replay(
        self, trace: Trace, duration_s: float, most: int, cv: float | None, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Send times of a block in seconds, the first at 0: at most `most` requests of `duration_s` seconds.

        Fewer requests than recorded are drawn from the recorded ones without stretching time, which would stretch the
        bursts; their number is fixed, the choice is `rng`'s. More than recorded come from counts only. Within an
        interval the requests of a count are a renewal process with gaps of that `cv`, given their number.
        """
        window = (trace.start_s, trace.start_s + duration_s)
        if self.interval_s is None:
            first, last = np.searchsorted(self.values, window)
            times = self.values[first:last]
            share = min(len(times), max(1, round(len(times) * trace.scale)))
            times = times[np.sort(rng.choice(len(times), share, replace=False))]
        else:
            times = self._within(window, self.interval_s, trace.scale, cv or 1.0, rng)
        times = times[:most]
        return times - times[0] if len(times) else np.zeros(1)

    def _before(self, instant_s: float) -> float:
        """Requests before an instant; those of an interval are spread evenly over it."""
        if self.interval_s is None:
            return float(np.searchsorted(self.values, instant_s))
        return float(np.interp(instant_s, *self._steps(self.interval_s)))

    def _steps(self, interval_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The bounds of the intervals in seconds, and the requests counted until each of them."""
        counted = np.concatenate([np.zeros(1), np.cumsum(self.values)])
        return np.arange(len(counted), dtype=np.float64) * interval_s, counted

    def _within(
        self, window: tuple[float, float], interval_s: float, scale: float, cv: float, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        bounds, counted = self._steps(interval_s)
        edges = np.unique(np.concatenate([window, bounds[(bounds > window[0]) & (bounds < window[1])]]))
        # rounding what has come so far, and not each count, keeps the total
        counts = np.diff(np.round(np.interp(edges, bounds, counted) * scale)).astype(int)
        parts = [
            begin + np.cumsum(uneven_steps(count + 1, cv, rng))[:-1] * (end - begin)
            for begin, end, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
        ]
        return np.concatenate([np.zeros(0), *parts])

    def save(self, folder: Path) -> str:
        """Keep the recording in `folder`, under its digest, which is returned; one that is there is left alone."""
        path = path_of(folder, self.digest)
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}")  # another process may read the same file now
            with part.open("wb") as file:
                np.savez_compressed(file, values=self.values, interval_s=np.array([self.interval_s or 0.0]))
            part.replace(path)
        return self.digest

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what `save` wrote. Raises NotFound, InvalidInput."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                interval_s = float(arrays["interval_s"][0])
                return cls(arrays["values"], interval_s or None)
        except FileNotFoundError as error:
            raise NotFound(f"no trace is kept at {path}", hint="give its file: --trace FILE") from error
        except (KeyError, ValueError, OSError, EOFError, BadZipFile) as error:
            raise InvalidInput(f"{path} holds no trace", why=str(error), hint="give its file: --trace FILE") from error


def path_of(folder: Path, digest: str) -> Path:
    """Where `Recording.save` keeps a recording."""
    return folder / f"{digest}.npz"


def kept(folder: Path, beginning: str) -> Recording | None:
    """The recording kept in `folder` whose digest begins so (eight characters at least); None where there is none."""
    if len(beginning) < _LEAST_PREFIX or not set(beginning) <= set("0123456789abcdef"):
        return None
    found = sorted(folder.glob(f"{beginning}*.npz"))
    if len(found) > 1:
        raise InvalidInput(f"the digests of several traces begin with '{beginning}'", hint="write more of it")
    return Recording.load(found[0]) if found else None


def uneven_steps(count: int, cv: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """`count` positive steps that sum to 1: independent gamma gaps of shape 1 / cv^2 over their sum.

    The logarithm of a small-shaped gamma variate is that of one of shape + 1 plus log(U) / shape (Devroye, IX.3.5).
    With it, gaps of cv 10, many of which are below the smallest float, neither vanish all at once nor divide by 0.
    """
    if cv == 1.0:
        steps = rng.exponential(1.0, count)
        return np.asarray(steps / steps.sum(), np.float64)
    shape = 1.0 / cv**2
    logs = np.log(rng.standard_gamma(shape + 1.0, count)) + np.log1p(-rng.random(count)) / shape
    steps = np.exp(logs - logs.max())
    return np.asarray(steps / steps.sum(), np.float64)
