"""Two measurements side by side: how much faster, with an interval, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.measurement import Measurement, Validity
from modelyard.domain.workload import Workload
from modelyard.profile.samples import Samples
from modelyard.profile.statistics import half_width, percentile, summarise


@dataclass(frozen=True, slots=True)
class Difference:
    """Ratio b/a of one indicator with its interval; `low`, `high` are None below two blocks on either side."""

    indicator: str
    ratio: float
    low: float | None
    high: float | None

    @property
    def shown(self) -> bool:
        """Whether the interval excludes "no difference"."""
        return self.low is not None and self.high is not None and (self.low > 1 or self.high < 1)

    def words(self, b: str = "B") -> str:
        """`B is 12 % faster at p99 [8 %, 16 %]`, or that no difference is shown."""
        rate = self.indicator == "throughput"
        noun = "throughput" if rate else f"at {self.indicator}"
        if self.low is None or self.high is None:
            return f"too few blocks to compare {self.indicator} (ratio {self.ratio:.3g})"
        if not self.shown:
            return f"no difference shown {'in ' if rate else ''}{noun} [{self.low - 1:+.1%}, {self.high - 1:+.1%}]"
        more, less = ("more", "less") if rate else ("slower", "faster")
        word = more if self.ratio > 1 else less
        nearer, farther = sorted((self.low, self.high), key=lambda bound: abs(math.log(bound)))
        size, least, most = (self._size(value) for value in (self.ratio, nearer, farther))
        return f"{b} {'has' if rate else 'is'} {size} {word} {noun} [{least}, {most}]"

    def _size(self, value: float) -> str:
        """In per cent of A; as a factor where the ratio is beyond two, where per cents mislead."""
        if 0.5 <= self.ratio <= 2:
            return f"{abs(value - 1):.1%}"
        return f"{max(value, 1 / value):.3g}x"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`b` against `a`. `paired`: both saw the same schedules and payloads, so block k is compared with block k.

    `caveats` say what weakens it: other machines, other loads, an invalid side.
    """

    a: str
    b: str
    paired: bool
    differences: tuple[Difference, ...]
    caveats: tuple[str, ...] = ()

    def difference(self, indicator: str) -> Difference:
        """The difference in `p50`, `p95`, `p99` or `throughput`."""
        return next(d for d in self.differences if d.indicator == indicator)

    @property
    def words(self) -> str:
        """The whole comparison in one line."""
        text = "; ".join(d.words(self.b) for d in self.differences)
        return f"{text} (caution: {'; '.join(self.caveats)})" if self.caveats else text


def compare(a: Measurement, a_samples: Path | Samples, b: Measurement, b_samples: Path | Samples) -> Comparison:
    """Compare two measurements by their raw samples: intervals on the log ratio over blocks.

    Same workload (so same seeds) and equally many blocks: paired. Else the blocks are two independent groups (Welch).
    """
    paired = a.workload == b.workload
    columns_a, columns_b = block_logs(a, a_samples), block_logs(b, b_samples)
    paired = paired and len(columns_a["p50"]) == len(columns_b["p50"])
    return Comparison(
        a=a.configuration.label,
        b=b.configuration.label,
        paired=paired,
        differences=tuple(_difference(name, columns_a[name], columns_b[name], paired) for name in columns_a),
        caveats=_caveats(a, b),
    )


def block_logs(measurement: Measurement, samples: Path | Samples) -> dict[str, NDArray[np.float64]]:
    """The logarithm of `p50`, `p95`, `p99` (ms) and `throughput` (requests/s) of every block, (blocks,) float64."""
    loaded = samples if isinstance(samples, Samples) else Samples.load(samples)
    timeout_s, blocks = measurement.workload.timeout_s, loaded.blocks()
    summaries = [summarise(block, open_loop=measurement.workload.open_loop, timeout_s=timeout_s) for block in blocks]
    columns = {
        name: [percentile(block.latencies_ms(timeout_s), share) for block in blocks]
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    columns["throughput"] = [summary.throughput_rps for summary in summaries]
    return {name: np.log(np.maximum(values, 1e-9)) for name, values in columns.items()}


def _difference(name: str, a: NDArray[np.float64], b: NDArray[np.float64], paired: bool) -> Difference:
    middle = float(b.mean() - a.mean())
    half = _paired_half(b - a) if paired else _welch_half(a, b)
    if half is None:
        return Difference(name, math.exp(middle), None, None)
    return Difference(name, math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def _paired_half(differences: NDArray[np.float64]) -> float | None:
    return half_width(differences) if len(differences) > 1 else None


def _welch_half(a: NDArray[np.float64], b: NDArray[np.float64], confidence: float = 0.95) -> float | None:
    """Welch's interval for the difference of two means, with the Welch-Satterthwaite degrees of freedom."""
    if len(a) < 2 or len(b) < 2:
        return None
    from scipy.special import stdtrit

    va, vb = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    if va + vb == 0:
        return 0.0
    degrees = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return float(stdtrit(degrees, 0.5 + confidence / 2)) * math.sqrt(va + vb)


def _other_load(a: Workload, b: Workload) -> str:
    """What differs between two loads; a label alone may be the same for both."""
    differing = [f.name for f in fields(Workload) if getattr(a, f.name) != getattr(b, f.name)]
    if differing == ["seed"]:
        return f"with different seeds ({a.seed} and {b.seed}), so other schedules and payload orders"
    told = (f"{name} {_plain(getattr(a, name))} and {_plain(getattr(b, name))}" for name in differing)
    return f"under different loads ({', '.join(told)})"


def _plain(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _caveats(a: Measurement, b: Measurement) -> tuple[str, ...]:
    checks: Sequence[tuple[bool, str]] = (
        (a.fingerprint.id != b.fingerprint.id, "measured on different nodes"),
        (a.workload != b.workload, _other_load(a.workload, b.workload)),
        (Validity.INVALID in (a.verdict.validity, b.verdict.validity), "one side is invalid"),
        (a.verdict.saturated or b.verdict.saturated, "one side was saturated"),
    )
    return tuple(text for wrong, text in checks if wrong)
