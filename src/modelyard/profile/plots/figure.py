"""What a plot is given and what it gives; names and colours that all plots of a report share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from modelyard.domain.figures import figure
from modelyard.domain.measurement import Interval, Measurement, Validity
from modelyard.domain.workload import Arrival, Workload
from modelyard.profile.distribution import Distribution

BAND: Final = "95 % t-interval over the blocks at each percentile by itself (pointwise)"


@dataclass(frozen=True, slots=True)
class Plot:
    """An inline SVG with its title and a sentence that says how to read it. The page needs `svg.STYLE`."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A measurement as plots show it: its row in the table, and its distribution where raw samples are there."""

    measurement: Measurement
    number: int
    distribution: Distribution | None = None

    @property
    def doubtful(self) -> bool:
        """Invalid, or of a service that did not keep up: not to be read as a result."""
        return self.measurement.verdict.validity is Validity.INVALID or self.measurement.verdict.saturated

    @property
    def hover(self) -> str:
        """The row in a few lines."""
        m, i = self.measurement, self.measurement.indicators
        p99 = f"p99 {i.p99_ms} ms" if i.p99_ms else "no p99: too few requests"
        lines = (
            f"{self.number}  {m.configuration.label}",
            m.workload.label,
            f"{i.throughput_rps} requests/s, p50 {i.p50_ms} ms, {p99}",
            str(m.verdict),
        )
        return "\n".join(lines)


def ms(value: float | Interval) -> str:
    """`3.2 ms`, with the interval where there is one."""
    return f"{value if isinstance(value, Interval) else figure(value)} ms"


def distinct(names: Sequence[str]) -> dict[str, str]:
    """Each name without the words that all have at the same place: `fp32 t1 r1 b8` of many that differ in b is `b8`."""
    unique = list(dict.fromkeys(names))
    parts = [name.split() for name in unique]
    if len(unique) < 2 or len({len(words) for words in parts}) > 1:
        return {name: name for name in unique}
    differing = [place for place, words in enumerate(zip(*parts, strict=True)) if len(set(words)) > 1]
    return {name: " ".join(words[place] for place in differing) for name, words in zip(unique, parts, strict=True)}


def load(w: Workload) -> str:
    """How much load, in a few words: `closed 8`, `200 rps`, `gamma 200 rps`."""
    if w.rate_rps is None:
        return f"{w.arrival} {w.concurrency}"
    return f"{w.rate_rps:g} rps" if w.arrival is Arrival.POISSON else f"{w.arrival} {w.rate_rps:g} rps"


def by_configuration(shown: Sequence[Shown]) -> dict[str, list[Shown]]:
    """The measurements of each configuration, by its name, in the order in which these first appear.

    Where requests travelled or were sized differently, that is part of the name: only the amount of load varies.
    """
    kinds = {(s.measurement.workload.protocol, s.measurement.workload.batch) for s in shown}
    protocols, sizes = ({kind[place] for kind in kinds} for place in (0, 1))
    groups: dict[str, list[Shown]] = {}
    for each in shown:
        w = each.measurement.workload
        words = [each.measurement.configuration.label]
        words += [str(w.protocol)] if len(protocols) > 1 else []
        words += [f"x{w.batch}"] if len(sizes) > 1 else []
        groups.setdefault(" ".join(words), []).append(each)
    return groups


def in_order_of_load(shown: Sequence[Shown]) -> list[Shown]:
    """Closed loops by requests in flight, then open loops by rate."""

    def key(each: Shown) -> tuple[bool, float, int]:
        w = each.measurement.workload
        return w.open_loop, w.rate_rps or float(w.concurrency), w.seed

    return sorted(shown, key=key)


def sentence(*parts: str) -> str:
    """Parts that are not empty, one after another."""
    return " ".join(part for part in parts if part)


def left_out(count: int, what: str) -> str:
    """`3 more ...` or nothing."""
    return f"{count} more {what}." if count else ""
