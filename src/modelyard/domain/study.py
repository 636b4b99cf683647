"""A study: a search over configurations; its trials, what they were predicted to do and what they did.

Values only. How the next point is chosen is `modelyard.tune`; where they are kept is `modelyard.hub`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from modelyard.domain.configuration import Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.measurement import Interval
from modelyard.domain.workload import Workload

Knob: TypeAlias = int | float | str


class Goal(StrEnum):
    """What an objective looks at. `rate`: the highest rate that still meets the SLO; `cost`: per million requests."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    RATE = "rate"
    COST = "cost"
    MEMORY = "memory"

    @property
    def maximised(self) -> bool:
        return self in (Goal.THROUGHPUT, Goal.RATE)


LATENCIES = ("mean", "p50", "p95", "p99")


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing to minimise or maximise; `statistic` says which latency (`mean`, `p50`, `p95`, `p99`), else empty."""

    goal: Goal
    statistic: str = ""

    def __post_init__(self) -> None:
        if self.statistic not in (LATENCIES if self.goal is Goal.LATENCY else ("",)):
            raise InvalidInput(
                f"'{self.statistic}' is not a statistic of {self.goal}", hint=f"a latency is {', '.join(LATENCIES)}"
            )

    def loss(self, value: float) -> float:
        """The value as what every strategy minimises: its logarithm, negative where more is better.

        On the log scale a difference of losses is a ratio, and noise is about the same everywhere.
        """
        if not value > 0:
            return math.inf
        return -math.log(value) if self.goal.maximised else math.log(value)

    def value(self, loss: float) -> float:
        """The inverse of `loss`."""
        return math.exp(-loss if self.goal.maximised else loss)

    def __str__(self) -> str:
        return f"{'max' if self.goal.maximised else 'min'} {self.statistic or self.goal}"


_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TERM = re.compile(r"(min|max)\s+(\w+)")
_AIM = re.compile(
    r"\s*(?P<terms>(?:min|max)\s+\w+(?:\s*(?:,|and)\s*(?:min|max)\s+\w+)*)"
    r"(?:\s+under\s+p99\s*<=\s*(?P<p99>" + _NUMBER + r")\s*ms)?"
    r"(?:\s+at\s+(?P<load>" + _NUMBER + r")\s*(?P<unit>rps|concurrent))?\s*"
)


@dataclass(frozen=True, slots=True)
class Aim:
    """What a study looks for: one objective, or several (then a Pareto set), under a load and perhaps an SLO.

    `rate_rps`: open loop of that rate; `concurrency`: closed loop. The goal `rate` has neither: it finds the rate.
    """

    objectives: tuple[Objective, ...]
    slo_ms: float | None = None
    rate_rps: float | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        goals = [o.goal for o in self.objectives]
        if not goals or len(set(self.objectives)) < len(goals):
            raise InvalidInput("an aim needs objectives, each once", hint="e.g. min cost under p99 <= 20 ms at 200 rps")
        if Goal.RATE in goals:
            if self.slo_ms is None or self.rate_rps or self.concurrency or len(goals) > 1:
                raise InvalidInput(
                    "the highest rate is found under an SLO, alone and without a load of its own",
                    hint="write max rate under p99 <= 20 ms",
                )
        elif (self.rate_rps is None) == (self.concurrency is None):
            raise InvalidInput(
                f"the aim '{self}' needs one load", hint="end it with e.g. 'at 200 rps' or 'at 16 concurrent'"
            )
        if not all(0 < x < math.inf for x in (self.slo_ms, self.rate_rps, self.concurrency) if x is not None):
            raise InvalidInput("an aim needs a positive p99, rate and concurrency", hint="e.g. at 200 rps")
        if self.slo_ms is not None and self.concurrency is not None:
            raise InvalidInput(
                "an SLO holds at a rate, not in a closed loop",
                why="a closed loop waits for a slow service",
                hint="e.g. min cost under p99 <= 20 ms at 200 rps",
            )

    @classmethod
    def parse(cls, text: str) -> Aim:
        """Parse `min cost under p99 <= 20 ms at 200 rps`, `min p99 and min cost at 100 rps`, `max rate under ...`.

        Raises InvalidInput.
        """
        match = _AIM.fullmatch(text)
        if match is None:
            raise InvalidInput(
                f"'{text}' is not an aim",
                hint="write e.g. 'min cost under p99 <= 20 ms at 200 rps', 'max rate under p99 <= 20 ms', "
                "'min mean at 16 concurrent', 'min p99 and min cost at 100 rps'",
            )
        objectives = tuple(_objective(direction, noun) for direction, noun in _TERM.findall(match["terms"]))
        load = float(match["load"]) if match["load"] else None
        closed = match["unit"] == "concurrent"
        if closed and load is not None and (load < 1 or load != int(load)):
            raise InvalidInput(
                f"{match['load']} is not a number of requests in flight", hint="write e.g. 16 concurrent"
            )
        return cls(
            objectives,
            slo_ms=float(match["p99"]) if match["p99"] else None,
            rate_rps=None if closed else load,
            concurrency=int(load) if closed and load is not None else None,
        )

    @property
    def slo(self) -> Slo | None:
        """The SLO every chosen configuration must hold."""
        return None if self.slo_ms is None else Slo(self.slo_ms, self.rate_rps)

    @property
    def pareto(self) -> bool:
        """Whether there are several objectives, so that the answer is a set."""
        return len(self.objectives) > 1

    @property
    def seeks_rate(self) -> bool:
        """Whether it looks for the highest rate under its SLO, and so has no load of its own."""
        return self.objectives[0].goal is Goal.RATE

    def __str__(self) -> str:
        text = " and ".join(map(str, self.objectives))
        if self.slo_ms is not None:
            text += f" under p99 <= {self.slo_ms:g} ms"
        if self.rate_rps is not None:
            text += f" at {self.rate_rps:g} rps"
        return text if self.concurrency is None else f"{text} at {self.concurrency} concurrent"


def _objective(direction: str, noun: str) -> Objective:
    if noun in LATENCIES:
        found = Objective(Goal.LATENCY, noun)
    elif noun in {g.value for g in Goal if g is not Goal.LATENCY}:
        found = Objective(Goal(noun))
    else:
        known = ", ".join([*LATENCIES, *(g.value for g in Goal if g is not Goal.LATENCY)])
        raise InvalidInput(f"'{noun}' cannot be an objective", hint=f"use one of {known}")
    if found.goal.maximised != (direction == "max"):
        raise InvalidInput(f"nobody wants '{direction} {noun}'", hint=f"write {found}")
    return found


@dataclass(frozen=True, slots=True)
class Point:
    """One place of a space: its active knobs and their values, in the space's order. Equal points are one trial."""

    knobs: tuple[tuple[str, Knob], ...]

    @classmethod
    def of(cls, knobs: Mapping[str, Knob]) -> Point:
        return cls(tuple(knobs.items()))

    def __iter__(self) -> Iterator[tuple[str, Knob]]:
        return iter(self.knobs)

    def __getitem__(self, name: str) -> Knob:
        for knob, value in self.knobs:
            if knob == name:
                return value
        raise KeyError(name)

    def get(self, name: str, default: Knob | None = None) -> Knob | None:
        """The knob's value; `default` where it is not active."""
        return next((value for knob, value in self.knobs if knob == name), default)

    def __str__(self) -> str:
        return " ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the simulator expects of a point under the aim's load. Latencies in ms; `losses` in the aim's order.

    `feasible`: whether it expects the SLO to be met; `spread` is the standard deviation of its error on the log
    scale, as known so far.
    """

    losses: tuple[float, ...]
    throughput_rps: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cores: float
    feasible: bool
    saturated: bool = False
    spread: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a measured point did. `losses` are in the aim's order; `errors` their standard errors on the log scale.

    `p99_ms` is what the SLO is compared with. `feasible`: believable, not saturated, and within the SLO with its upper
    bound. `measurements` are ids in the hub, the first the one that `losses` come from. `blocks`: the losses of every
    block, for results that were confirmed together with the same seed: their blocks are pairs. Empty where there are
    none.
    """

    losses: tuple[float, ...]
    errors: tuple[float, ...]
    values: tuple[Interval, ...]
    p99_ms: Interval | None
    feasible: bool
    verdict: str
    measurements: tuple[str, ...] = ()
    blocks: tuple[tuple[float, ...], ...] = ()


class TrialState(StrEnum):
    """How a trial ended. `failed`: did not start or answer; `abandoned`: hopeless in its first seconds."""

    MEASURED = "measured"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Trial:
    """One tried point. `reason`: why the strategy proposed it; `detail`: what went wrong, where something did.

    Trials count from 1. `confirms`: the number of the search trial whose point this one measured again with fresh
    seeds; 0 for a default that the search had not tried. None: a trial of the search, which counts for the budget.
    """

    number: int
    point: Point
    state: TrialState
    reason: str
    result: Result | None = None
    prediction: Prediction | None = None
    detail: str = ""
    seconds: float = 0.0
    confirms: int | None = None

    @property
    def feasible(self) -> bool:
        return self.result is not None and self.result.feasible


class Standing(StrEnum):
    """A measured point against the winner (one objective), or as a member of the Pareto set (several).

    `better`: shown to be better than the winner, which a point can only be whose confirmation was not made; with
    several objectives: shown to be dominated by no other. `tied`: nothing is shown.
    """

    BEST = "best"
    BETTER = "better"
    TIED = "tied"
    DOMINATED = "dominated"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, slots=True)
class Ranked:
    """A trial's standing, and the confidence in it from the standard errors of both sides.

    `best`: the probability that it is the best of all that are feasible (several objectives: that none dominates it).
    `better`, `dominated`: the probability of that. `tied`: the two-sided p-value of its difference from the winner
    (several objectives: the probability that none dominates it). `infeasible`: that its p99 is over the SLO.
    """

    trial: int
    standing: Standing
    confidence: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a study found: the winning trial's number (None: nothing feasible), why it stopped, who is as good.

    `best` is a trial of the confirmation; with several objectives the one with the least product of them. `ranking` has
    one trial per point, its confirmation where there is one, the best first.

    `default_as_good`: the default configuration is tied with the winner (then it is the one to keep). `binding`: the
    constraint that kept better configurations out, in words. `prediction_error`: median |log(measured / predicted)|
    per indicator over all trials with a prediction.
    """

    best: int | None
    ranking: tuple[Ranked, ...]
    stopped: str
    default_as_good: bool = False
    binding: str = ""
    prediction_error: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Study:
    """A search over the configurations of a version on one node, finished (`answer`) or to be gone on with.

    `space` is the space's own document (YAML text), `options` the strategy's settings. The same id, space, aim, seed,
    options and trials lead to the same next proposal.
    """

    id: str
    model: str
    version: int
    aim: Aim
    workload: Workload | None
    space: str
    strategy: str
    options: Mapping[str, Knob]
    budget: int
    seed: int
    fingerprint: str
    default: Point
    trials: tuple[Trial, ...] = ()
    answer: Answer | None = None
    created_at: str = ""

    def blocks(self, trial: Trial) -> int:
        """How many blocks a trial's intervals are from."""
        own = len(trial.result.blocks) if trial.result else 0
        return own or (self.workload.blocks if self.workload else 0)

    def at_timeout(self, trial: Trial) -> bool:
        """Whether a trial's p99 is no latency but the timeout: 1 % of its requests or more failed or took that long."""
        p99 = trial.result.p99_ms if trial.result else None
        return p99 is not None and self.workload is not None and p99.value >= 1e3 * self.workload.timeout_s
