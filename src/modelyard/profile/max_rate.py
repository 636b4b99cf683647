"""The highest rate at which a service meets a latency SLO: capacity, probes, a monotone fit, then confirmation.

A pure search: it is given a `measure` and decides what to measure next. Probing finds a candidate; what counts is the
confirmation with fresh seeds, whose upper 95 % bound must meet the SLO: the best of several noisy probes is likely one
that was lucky. How often answers are too high is in docs/max-rate.md (`python -m bench.max_rate`).

Between probes 1/p99 is interpolated linearly in the rate: exact for M/M/1, and zero at the capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum

from modelyard.domain.errors import InvalidInput
from modelyard.domain.figures import figure
from modelyard.domain.measurement import Interval
from modelyard.profile.monotone import crossing_of
from modelyard.profile.slo_evidence import Evidence, Limits, Load, Measure, Purpose


class Stop(StrEnum):
    """Why the search ended."""

    CONFIRMED = "confirmed"
    CAPACITY = "limited by the capacity"
    CLIENT = "limited by the client"
    TOO_SLOW = "too slow at any rate"
    FAILING = "failing"
    UNCONFIRMED = "not confirmed"


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement of a search, in the order they were made.

    `met`: it met the SLO, on blocks as long as its verdict asks for or as they could be.
    """

    load: Load
    evidence: Evidence
    met: bool

    @property
    def rate_rps(self) -> float:
        """The rate that was offered; 0 for the capacity."""
        return self.load.rate_rps or 0.0


@dataclass(frozen=True, slots=True)
class MaxRate:
    """The answer. `rate_rps` is the confirmed rate, or None; `p99_ms` what the confirmation measured there.

    `provisional`: the confirmation's blocks were shorter than its verdict asks for, and could not be longer.
    `feasible_max_rps`: the highest rate at which a measurement met the SLO; `infeasible_min_rps`: the lowest at which
    one was shown to miss it. `capacity_rps`: throughput of the closed loop.
    """

    slo_p99_ms: float
    rate_rps: float | None
    p99_ms: Interval | None
    provisional: bool
    capacity_rps: float
    feasible_max_rps: float | None
    infeasible_min_rps: float | None
    stop: Stop
    reason: str
    probes: tuple[Probe, ...]


def search(slo_p99_ms: float, measure: Measure, *, seed: int = 0, limits: Limits | None = None) -> MaxRate:
    """Find the highest rate whose p99 stays within `slo_p99_ms`. Errors of `measure` are not caught.

    The same answers give the same search: seeds derive from `seed` and are other ones for every confirmation.
    """
    if slo_p99_ms <= 0:
        raise InvalidInput(f"an SLO of {slo_p99_ms:g} ms cannot be met", hint="write e.g. p99 <= 20 ms")
    return _Search(slo_p99_ms, measure, seed, limits or Limits()).run()


@dataclass
class _Search:
    slo_ms: float
    measure: Measure
    seed: int
    limits: Limits
    probes: list[Probe] = field(default_factory=list)

    def run(self) -> MaxRate:
        capacity = self._take(Load(Purpose.CAPACITY, None, self.seed, self.limits.requests)).evidence
        if capacity.throughput_rps <= 0:
            return self._answer(Stop.FAILING, f"no request succeeded: {capacity.invalid or 'see the measurement'}")
        self._probe()
        if not any(p.met for p in self._open) and (answer := self._hopeless()):
            return answer
        return self._confirm(self._candidate())

    @property
    def _open(self) -> list[Probe]:
        return [p for p in self.probes if p.load.purpose is not Purpose.CAPACITY]

    @property
    def _capacity_rps(self) -> float:
        return self.probes[0].evidence.throughput_rps

    @property
    def _left(self) -> int:
        return self.limits.measurements - len(self.probes)

    def _take(self, load: Load) -> Probe:
        evidence, rate = self.measure(load), load.rate_rps
        longest = rate is not None and self.limits.block(rate, evidence.requests_wanted) <= load.requests
        self.probes.append(Probe(load, evidence, met=longest and evidence.meets(self.slo_ms)))
        return self.probes[-1]

    def _probe(self) -> None:
        """At the planned shares of the capacity upwards until one misses; downwards where the first does."""
        for share in self.limits.shares:
            probe = self._take(self._probe_at(share))
            if probe.evidence.invalid or probe.evidence.misses(self.slo_ms):
                break
        for share in self.limits.lower_shares:
            if any(p.met for p in self._open) or not self._undecided_or_missed_first():
                return
            self._take(self._probe_at(share))

    def _probe_at(self, share: float) -> Load:
        rate = share * self._capacity_rps
        return Load(Purpose.PROBE, rate, self.seed, self.limits.block(rate, self.limits.requests))

    def _undecided_or_missed_first(self) -> bool:
        first = min(self._open, key=lambda p: p.rate_rps).evidence
        return bool(first.invalid) or first.p99_ms is None or first.misses(self.slo_ms) or self._over(first)

    def _hopeless(self) -> MaxRate | None:
        """The answer where even the lowest rate says that no rate can do."""
        lowest = min(self._open, key=lambda p: p.rate_rps)
        evidence, rate = lowest.evidence, figure(lowest.rate_rps)
        if evidence.client_limited:
            return self._answer(Stop.CLIENT, f"even {rate} requests/s could not be offered: {evidence.invalid}")
        if evidence.invalid:
            return self._answer(Stop.UNCONFIRMED, f"the probe at {rate} requests/s is invalid: {evidence.invalid}")
        if evidence.error_fraction >= 0.01:
            return self._answer(
                Stop.FAILING, f"{evidence.error_fraction:.1%} of the requests fail at {rate} requests/s"
            )
        if evidence.misses(self.slo_ms):
            told = f"at {rate} requests/s, {lowest.rate_rps / self._capacity_rps:.0%} of the capacity"
            return self._answer(Stop.TOO_SLOW, f"p99 is {evidence.p99_ms} ms already {told}")
        return None

    def _candidate(self) -> float:
        """Where the fit crosses the SLO, below the capacity and below what the client could not offer."""
        points = [(p.rate_rps, self._speed(p)) for p in self._open if not p.evidence.invalid]
        crossing = crossing_of(points, 1 / self.slo_ms, self._capacity_rps)
        bounds = [self._capacity_rps, *(p.rate_rps for p in self._open if p.evidence.client_limited)]
        return min(crossing, 0.95 * min(bounds))

    def _speed(self, probe: Probe) -> float:
        """1 / p99, half way to its upper bound as confirmations are longer; 0 where the service did not keep up."""
        p99 = probe.evidence.p99_ms
        if probe.evidence.saturated or p99 is None:
            return 0.0
        return 1 / max(math.sqrt(p99.value * (p99.high or p99.value)), 1e-9)

    def _confirm(self, candidate: float) -> MaxRate:
        """Confirm, stepping down until a rate holds, or up while the fit promises more and nothing failed there."""
        rate, best, failed_at = candidate, None, math.inf
        for number in range(self.limits.confirmations):
            if self._left < 1:
                break
            probe = self._long_enough(rate, self.seed + 1 + number)
            if probe.met:
                best = probe
                rate *= 1 + self.limits.step
                if rate >= failed_at * 0.999 or rate > self._candidate():
                    break
            else:
                failed_at = rate
                if best is not None:
                    break
                rate = self._below(probe)
        return self._confirmed(best) if best else self._unconfirmed(failed_at)

    def _below(self, failed: Probe) -> float:
        """A step below a rate that was not confirmed; half way to the highest one that seemed to hold, if far off."""
        step = failed.rate_rps * (1 - self.limits.step)
        if not (failed.evidence.misses(self.slo_ms) or self._over(failed.evidence, 1.5)):
            return step
        held = (p for p in self._open if not (p.evidence.misses(self.slo_ms) or self._over(p.evidence)))
        lower = max((p.rate_rps for p in held if p.rate_rps < step), default=0.5 * step)
        return min(step, (lower + failed.rate_rps) / 2)

    def _long_enough(self, rate: float, seed: int) -> Probe:
        """A confirmation with blocks as long as its own verdict asks for, unless it shows a miss before that."""
        load = Load(Purpose.CONFIRM, rate, seed, self._requests_near(rate))
        while True:
            probe = self._take(load)
            wanted = self.limits.block(rate, probe.evidence.requests_wanted)
            # short blocks see a p99 that is too low: where it is over the SLO already, longer ones only cost time
            if wanted <= load.requests or self._left < 1 or self._over(probe.evidence):
                return probe
            load = replace(load, requests=wanted)

    def _requests_near(self, rate: float) -> int:
        """As many as come in the time of a confirmation's block; at least those that a lower rate wanted."""
        below = [p for p in self._open if p.rate_rps <= rate and not p.evidence.saturated]
        planned = int(rate * self.limits.confirm_block_s)
        wanted = [max(p.evidence.requests_wanted, p.load.requests) for p in below]
        return self.limits.block(rate, max([*wanted, planned, self.limits.requests]))

    def _over(self, evidence: Evidence, factor: float = 1.0) -> bool:
        """Whether p99 itself is over the SLO (by a factor), whatever its interval."""
        return evidence.p99_ms is not None and evidence.p99_ms.value > factor * self.slo_ms

    def _confirmed(self, best: Probe) -> MaxRate:
        rate, p99 = best.rate_rps, best.evidence.p99_ms
        late = min((p for p in self._open if p.evidence.client_limited), key=lambda p: p.rate_rps, default=None)
        stop, why = Stop.CONFIRMED, ""
        if late is not None and rate >= 0.9 * late.rate_rps:
            stop, why = Stop.CLIENT, f"; {figure(late.rate_rps)} could not be offered: {late.evidence.invalid}"
        elif rate >= 0.94 * self._capacity_rps:
            stop = Stop.CLIENT if self.probes[0].evidence.client_limited else Stop.CAPACITY
            why = f"; the closed loop reaches {figure(self._capacity_rps)} requests/s"
        if best.evidence.requests_wanted:
            wanted = f"blocks of {best.load.requests} requests, where {best.evidence.requests_wanted} are wanted"
            why += f"; provisional: {wanted}"
        told = f"{figure(rate)} requests/s with fresh seeds: p99 {p99} ms, upper bound within {self.slo_ms:g} ms{why}"
        return self._answer(stop, told, best)

    def _unconfirmed(self, failed_at: float) -> MaxRate:
        last = self.probes[-1].evidence
        if last.client_limited:
            return self._answer(Stop.CLIENT, last.invalid)
        tried = (
            f"no rate down to {figure(failed_at)} requests/s met it" if failed_at < math.inf else "nothing was tried"
        )
        if last.p99_ms is not None:
            tried += f"; the last p99 was {last.p99_ms} ms"
        return self._answer(Stop.UNCONFIRMED, tried + f" ({last.invalid})" * bool(last.invalid))

    def _answer(self, stop: Stop, reason: str, best: Probe | None = None) -> MaxRate:
        missed = [p.rate_rps for p in self._open if p.evidence.misses(self.slo_ms)]
        met = [p.rate_rps for p in self._open if p.met]
        return MaxRate(
            slo_p99_ms=self.slo_ms,
            rate_rps=best.rate_rps if best else None,
            p99_ms=best.evidence.p99_ms if best else None,
            provisional=best is not None and best.evidence.requests_wanted > 0,
            capacity_rps=self._capacity_rps,
            feasible_max_rps=max(met, default=None),
            infeasible_min_rps=min(missed, default=None),
            stop=stop,
            reason=reason,
            probes=tuple(self.probes),
        )
