"""How the experiment goes: models, the default under growing load, the searches, and all winners once more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import yaml
from findings import DEFAULT, UNCAPPED, Cell, Confirmed, Findings, Load, Run

import modelyard
from modelyard.dispatch.engines.cgroups import find_parents
from modelyard.domain.measurement import Measurement
from modelyard.domain.study import Knob, Point, Study, Trial
from modelyard.domain.versions import ModelRef, Version
from modelyard.profile import fingerprint
from modelyard.tune import ranking
from modelyard.tune.conclusion import confirmation_seed
from modelyard.tune.ports import Outcome
from modelyard.workflow.progress import Listener, Progress, Step, silent
from modelyard.workflow.trying import Trying
from modelyard.workflow.tuning import Task

HERE = Path(__file__).resolve().parent
MODELS = ("gan-discriminator", "resnet-cifar", "translation")
LEVELS = (1, 5, 10, 20, 30, 40, 50, 60)
"""Concurrent requests in the paper."""
BLOCK_S = {"gan-discriminator": 1.0, "resnet-cifar": 1.0, "translation": 3.0}
"""Seconds of a block: several round trips of the slowest configurations, but for the very worst."""
AROUND_S = 6.0
"""Of a trial besides its blocks (start, warm-up, stop), for the estimate; replicas under a cap start slowly."""
ONCE_S = 80.0
"""Of a model besides its trials: convert it, and measure what the simulator starts from."""
SIMULATED_S = 0.025
"""Of one configuration; some of them are simulated again, at length."""
JOINT_ROUND = 100
"""Sets the seed of the last confirmation apart from those of the studies' own, which are rounds 0 to 2."""
UNBOUNDED = 1_000_000
"""Requests of a block that its seconds end."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured. `budget` 0: the default configuration and no search. `verify`: budget of `simulate-verify`,
    which chooses among so many `candidates`; `levels`: concurrencies of the default configuration; `joint`: blocks of
    the last confirmation."""

    models: tuple[str, ...]
    concurrency: tuple[int, ...]
    budget: int
    seeds: int = 1
    levels: tuple[int, ...] = LEVELS
    verify: int = 6
    candidates: int = 2000
    blocks: int = 5
    joint: int = 10
    shorter: float = 1.0

    def block_s(self, model: str) -> float:
        """Seconds of a block."""
        return BLOCK_S.get(model, 1.0) * self.shorter

    @property
    def cells(self) -> list[tuple[int, int]]:
        """What is searched of each model: concurrency and seed."""
        return [(c, seed) for c in self.concurrency for seed in range(self.seeds)] if self.budget else []

    def seconds(self) -> float:
        """About how long everything takes where nothing is measured yet."""
        searched = 3 * self.budget + self.verify  # B's first half is A, C's first half too
        confirmed = 4 * 3 + 5  # of each search about two contenders and the default; then all together
        cells = len(self.cells)
        return sum(
            ONCE_S
            + len(self.levels) * (3.0 + self.blocks * self.block_s(model))
            + cells * (searched + confirmed) * (AROUND_S + self.blocks * self.block_s(model))
            + cells * self.candidates * SIMULATED_S
            for model in self.models
        )


@dataclass(frozen=True, slots=True)
class Searched:
    """One of the searches that are compared."""

    label: str
    strategy: str
    words: str
    budget: int
    options: dict[str, Knob] = field(default_factory=dict)


def searches(scale: Scale) -> tuple[Searched, ...]:
    """A to D. B and C begin with the points of A; C never stops early, so that its budget is that of B."""
    half, whole = scale.budget, 2 * scale.budget
    ei: dict[str, Knob] = {"initial": half, "design": "random", "stop_ei": 0.0}
    verify: dict[str, Knob] = {"candidates": scale.candidates}
    return (
        Searched("A", "random", f"{half} random", half),
        Searched("B", "random", f"{whole} random", whole),
        Searched("C", "bayesian", f"{half} random + {half} expected improvement", whole, ei),
        Searched("D", "simulate-verify", f"simulate-verify, at most {scale.verify}", scale.verify, verify),
    )


def artifacts(text: str) -> list[str]:
    """The artifacts that a space names."""
    return [str(target) for target in yaml.safe_load(text)["knobs"]["artifact"]["choice"]]


def without_caps(text: str) -> str:
    """A space without its knob cpu_limit: replicas then share the cores by their threads."""
    document = yaml.safe_load(text)
    document["knobs"].pop("cpu_limit", None)
    kept = [c for c in document.get("constraints", ()) if "cpu_limit" not in c]
    document["constraints"] = [*kept, "replicas * threads <= cores"]
    return yaml.safe_dump(document, sort_keys=False)


def can_cap(settings: modelyard.Settings) -> bool:
    """Whether replicas can be held to fractions of a core here."""
    group = find_parents(settings.cgroup or None).cpu
    return group is not None and os.access(group, os.W_OK)


@dataclass(frozen=True)
class Experiment:
    """The experiment on this machine; everything that was measured before is taken from the hub."""

    yard: modelyard.Yard
    scale: Scale
    out: Path
    capped: bool
    say: Listener
    spaces: Path = HERE

    def run(self) -> Findings:
        """Everything, model by model. Reports and `results.json` are written as they come; what other runs into the
        same folder found is kept beside it."""
        found = self._before()
        for model in self.scale.models:
            version = self._version(model)
            found = replace(found, default_by_model={**found.default_by_model, model: self._default(version)})
            self._keep(found)
            for concurrency, seed in self.scale.cells:
                found = found.having(self._cell(version, concurrency, seed, found.cells))
                self._keep(found)
        return found

    def _keep(self, found: Findings) -> None:
        (self.out / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))

    def _before(self) -> Findings:
        """What earlier runs into this folder found, on this machine as it is."""
        new, file = Findings(fingerprint().id, self.capped, {}, ()), self.out / "results.json"
        if not file.exists():
            return new
        found = msgspec.json.decode(file.read_bytes(), type=Findings)
        return found if (found.machine, found.capped) == (new.machine, new.capped) else new

    def _version(self, model: str) -> Version:
        """Make, register and convert the model; what is done is found by its content."""
        folder = self.out / "models"
        if not folder.exists():
            self.say(Progress(Step.REGISTER, "making the three models"))
            part = self.out / f"models.{os.getpid()}"
            subprocess.run([sys.executable, str(HERE / "models.py"), "--out", str(part)], check=True, stdout=sys.stderr)
            part.rename(folder)
        version = self.yard.register(folder / f"{model}.yaml", listener=self.say).version
        ref = ModelRef(version.model, version.number)
        servable = {str(a.target) for a in self.yard.hub.artifacts.list(ref, servable_only=True)}
        if missing := [t for t in artifacts(self._space(model)) if t not in servable]:
            self.yard.convert(version.ref, missing, listener=self.say)
        return version

    def _default(self, version: Version) -> tuple[Load, ...]:
        """The default configuration under every number of concurrent requests."""
        request = modelyard.ProfileRequest(
            targets=(modelyard.Target.parse(version.definition.source.format),),
            closed=self.scale.levels,
            blocks=self.scale.blocks,
            duration_s=self.scale.block_s(version.model),
            requests=UNBOUNDED,
        )
        self.say(
            Progress(
                Step.PROFILE, f"{version.model}: the default configuration at {len(self.scale.levels)} concurrencies"
            )
        )
        sweep = self.yard.profile(version.ref, request)
        for failed in sweep.failed:
            self.say(Progress(Step.PROFILE, f"left out: {failed}"))
        self.yard.report_measurements([m.id for m in sweep.measurements], self.out / f"{version.model}-default.html")
        return tuple(_load(m) for m in sweep.measurements)

    def _cell(self, version: Version, concurrency: int, seed: int, before: Sequence[Cell]) -> Cell:
        tasks: list[Task] = []
        for searched in searches(self.scale):
            request = self._request(version.model, searched, concurrency, seed)
            where = f"{version.model}, {concurrency} concurrent, seed {seed}, {searched.label} ({searched.words})"
            self.say(Progress(Step.TUNE, where))
            self.yard.tune(version.ref, request, listener=self.say)
            task = self.yard.tuning.prepare(version.ref, request, self.say)
            self.yard.report_study(task.study.id, self._report(task.study, searched.label))
            tasks.append(task)
        key = (version.model, concurrency, seed, [t.study.id for t in tasks])
        known = [c for c in before if (c.model, c.concurrency, c.seed, [r.study for r in c.runs]) == key]
        return known[0] if known else self._confirmed(tasks, concurrency, seed)

    def _request(self, model: str, searched: Searched, concurrency: int, seed: int) -> modelyard.TuneRequest:
        return modelyard.TuneRequest(
            aim=modelyard.Aim.parse(f"min mean at {concurrency} concurrent"),
            space=self._space(model),
            strategy=searched.strategy,
            options=searched.options,
            budget=searched.budget,
            seed=seed,
            blocks=self.scale.blocks,
            duration_s=self.scale.block_s(model),
        )

    def _space(self, model: str) -> str:
        text = (self.spaces / f"{model}.space.yaml").read_text(encoding="utf-8")
        return text if self.capped else without_caps(text)

    def _report(self, study: Study, label: str) -> Path:
        return self.out / f"{study.model}-{study.aim.concurrency}-{study.seed}-{label}.html"

    def _confirmed(self, tasks: Sequence[Task], concurrency: int, seed: int) -> Cell:
        """Every winner and the defaults once more, block by block in turns: only these numbers are compared."""
        task = tasks[0]
        winners = [winner(t.study) for t in tasks]
        defaults = {DEFAULT: task.study.default, UNCAPPED: Point.of({})}
        if task.meaning.configuration(defaults[DEFAULT]) == task.meaning.configuration(defaults[UNCAPPED]):
            del defaults[UNCAPPED]
        points = list(dict.fromkeys([*(w[0].point for w in winners if w), *defaults.values()]))
        self.say(Progress(Step.TUNE, f"measuring {len(points)} configurations in turns: the winners and the defaults"))
        work = replace(task.workload, blocks=self.scale.joint)
        trying = Trying(self.yard.profiling, task.version, task.meaning, task.study.aim, work, silent)
        with self.yard.profiling.alone(self.say):
            outcomes = trying.confirm(points, confirmation_seed(seed, JOINT_ROUND))
        by_point = {p: confirmed(p, o) for p, o in zip(points, outcomes, strict=True)}
        runs = []
        for searched, made, won in zip(searches(self.scale), tasks, winners, strict=True):
            tried = [t for t in made.study.trials if t.confirms is None]
            runs.append(
                Run(
                    searched.label,
                    searched.words,
                    made.study.id,
                    len(tried),
                    sum(not t.feasible for t in tried),
                    won[1] if won else None,
                    by_point[won[0].point] if won else None,
                    self._report(made.study, searched.label).name,
                )
            )
        told = {name: by_point[point] for name, point in defaults.items()}
        return Cell(task.version.model, concurrency, seed, tuple(runs), told)


def winner(study: Study) -> tuple[Trial, float] | None:
    """The best of what a study confirmed of its own trials, and its mean as the search saw it, in ms.

    Unlike the study's answer this is never the default that was confirmed beside them.
    """
    own = [(ranking.score(t.result), t) for t in study.trials if t.confirms and t.result is not None and t.feasible]
    if not own:
        return None
    best = min(own, key=lambda pair: pair[0])[1]
    seen = next(t.result for t in study.trials if t.number == best.confirms)
    return None if seen is None else (best, seen.values[0].value)


def confirmed(point: Point, outcome: Outcome) -> Confirmed:
    """What the last confirmation says of a point."""
    name, result = str(point) or "source, all cores, no caps", outcome.result
    if result is None or not result.feasible:
        return Confirmed(name, False, outcome.detail or (result.verdict if result else str(outcome.state)))
    mean = result.values[0]
    logs = tuple(block[0] for block in result.blocks)
    return Confirmed(name, True, result.verdict, mean.value, mean.low, mean.high, logs)


def _load(m: Measurement) -> Load:
    mean, p99 = m.indicators.mean_ms, m.indicators.p99_ms
    return Load(
        m.workload.concurrency or 0,
        mean.value if mean else None,
        mean.low if mean else None,
        mean.high if mean else None,
        p99.value if p99 else None,
        m.indicators.throughput_rps.value,
        str(m.verdict).partition(":")[0],
        m.id,
    )
