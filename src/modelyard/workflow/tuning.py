"""tune: search a version's configurations for an aim, trial by trial, each kept in the hub as it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.domain.study import Aim, Goal, Objective, Point, Prediction, Study
from modelyard.domain.versions import ModelRef, Version
from modelyard.domain.workload import Workload
from modelyard.hub import Hub, StudyQuery
from modelyard.profile import fingerprint
from modelyard.tune import search, space_text
from modelyard.tune.ports import Proposal, Search, Stop, Strategy
from modelyard.tune.space import Space
from modelyard.tune.strategies.registry import Strategies
from modelyard.workflow import study_words
from modelyard.workflow.predicting import Predicting
from modelyard.workflow.profiling import Profiling
from modelyard.workflow.progress import Listener, Progress, Step, silent
from modelyard.workflow.spaces import Meaning, default_space
from modelyard.workflow.trying import Trying, workload_for
from modelyard.workflow.values import TunePlan, TuneRequest

CONCURRENCY: Final = 16
"""Of the default aim where the version has no SLO: as publish measures capacity."""


@dataclass(frozen=True)
class Task:
    """A study to be made or gone on with, and what it is made of."""

    version: Version
    meaning: Meaning
    workload: Workload
    search: Search
    study: Study


@dataclass(frozen=True)
class Tuning:
    """Studies of versions on this node. A study that was interrupted is gone on with by the same request."""

    hub: Hub
    profiling: Profiling
    predicting: Predicting
    strategies: Strategies

    def plan(self, ref: str, request: TuneRequest, listener: Listener = silent) -> TunePlan:
        """What `tune` would do now; no service is measured, nothing is kept. Raises what `tune` raises."""
        task = self.prepare(ref, request, listener)
        first, reason = self._next(task)
        return TunePlan(task.study, task.search.space.size, first, reason, task.meaning.fixed(task.search.space))

    def _next(self, task: Task) -> tuple[Point | None, str]:
        if task.study.answer is not None:
            return None, "the study has its answer"
        if len(task.study.trials) >= task.study.budget:
            return None, search.budget_spent(task.study)
        following = self._strategy(task).propose(task.study.trials)
        return (None, following.reason) if isinstance(following, Stop) else (following.point, following.reason)

    def tune(self, ref: str, request: TuneRequest, listener: Listener) -> Study:
        """Search until there is an answer. Every finished trial is in the hub, whatever happens after it.

        A finished study with the same settings is returned as it is, unless the request says `again`. Raises NotFound,
        Unsupported (strategy), InvalidInput (aim, space, options), Conflict where another process goes on with it.
        """
        with self.profiling.alone(listener):
            task = self.prepare(ref, request, listener)
            if task.study.answer is not None:
                listener(Progress(Step.TUNE, f"study {task.study.id} was made before, with these settings"))
                return task.study
            strategy = self._strategy(task)
            study = task.study if task.study.id else self.hub.studies.save(task.study)
            done = len(study.trials)
            listener(Progress(Step.TUNE, f"study {study.id}: {study.aim}; {done} of {study.budget} trials done"))
            return search.run(study, task.search, strategy, self._means(task, study, listener))

    def _means(self, task: Task, study: Study, listener: Listener) -> search.Means:
        trying = Trying(self.profiling, task.version, task.meaning, study.aim, task.workload, listener)

        def save(grown: Study) -> None:
            self.hub.studies.save(grown)
            share = 1.0 if grown.answer else len(grown.trials) / (grown.budget + 1)  # the confirmation is one more
            listener(Progress(Step.TUNE, study_words.ended(grown), share))

        def started(number: int, proposal: Proposal, prediction: Prediction | None) -> None:
            words = study_words.started(study, number, proposal.point, prediction, proposal.reason)
            listener(Progress(Step.TUNE, words))

        return search.Means((trying.measure,), trying.confirm, save, started)

    def _strategy(self, task: Task) -> Strategy:
        return self.strategies.make(task.study.strategy, task.search, task.study.options)

    def prepare(self, ref: str, request: TuneRequest, listener: Listener) -> Task:
        """The study that a request means, with what its trials are made of. Raises what `tune` raises."""
        version = self.hub.versions.get(ModelRef.parse(ref))
        resumed = self._resumed(version, request.resume) if request.resume else None
        aim = resumed.aim if resumed else request.aim or default_aim(version)
        meaning = self._meaning(version, aim)
        space = self._space(version, meaning, resumed.space if resumed else request.space, request.space_name)
        begun = resumed or self._begun(version, request, aim, space, meaning)
        self.strategies.check(begun.strategy, begun.options)  # before the minutes that calibrating may take
        work = begun.workload or workload_for(aim, request)
        predict = None if begun.answer else self.predicting.of(version, meaning, space, aim, work, listener)
        made = Search(
            space, aim, begun.default, begun.budget, begun.seed, predict, predict.prepare if predict else None
        )
        return Task(version, meaning, work, made, begun)

    def _resumed(self, version: Version, study_id: str) -> Study:
        study = self.hub.studies.get(study_id)
        if (study.model, study.version) != (version.model, version.number):
            other = f"{study.model}:{study.version}"
            raise InvalidInput(f"study {study.id} is of {other}, not of {version.ref}", hint=f"yard tune {other}")
        if study.answer is None and study.fingerprint != fingerprint().id:
            raise InvalidInput(
                f"study {study.id} was begun on another machine, or before this one was changed",
                why="trials of two machines cannot be compared",
                hint=f"yard tune {version.ref} begins a new one here",
            )
        return study

    def _begun(self, version: Version, request: TuneRequest, aim: Aim, space: Space, meaning: Meaning) -> Study:
        """The newest study with these settings, unless it is to be begun again; else a new one, not kept yet."""
        new = Study(
            id="",
            model=version.model,
            version=version.number,
            aim=aim,
            workload=workload_for(aim, request),
            space=space.text,
            strategy=request.strategy,
            options=dict(request.options),
            budget=request.budget,
            seed=request.seed,
            fingerprint=fingerprint().id,
            default=meaning.default(space),
        )
        found = [] if request.again else self.hub.studies.find(StudyQuery(like=new, limit=1))
        return found[0] if found else new

    def _meaning(self, version: Version, aim: Aim) -> Meaning:
        servable = self.hub.artifacts.list(ModelRef(version.model, version.number), servable_only=True)
        runtimes = {a.id: names[0] for a in servable if (names := self.profiling.runtimes_for(a))}
        if not runtimes:
            raise Unsupported(f"no artifact of {version.ref} runs here", hint="yard doctor lists runtimes")
        return Meaning.of(servable, runtimes, self.profiling.cores, aim.slo)

    def _space(self, version: Version, meaning: Meaning, text: str | None, name: str) -> Space:
        if text is None:
            return default_space(meaning, batched=version.definition.signature.batched)
        constants = {"cores": meaning.cores, "memory": memory_mb()}
        space = Space.parse(text, constants, name=name)
        problems = space_text.located(text, name)
        for knob, error in meaning.mistakes(space, batched=version.definition.signature.batched):
            problems.add_error(("knobs", knob), error)
        problems.raise_if_any()
        return space


def default_aim(version: Version) -> Aim:
    """The cheapest configuration under the version's SLO; without one the highest throughput."""
    slo = version.definition.slo
    if slo is None:
        return Aim((Objective(Goal.THROUGHPUT),), concurrency=CONCURRENCY)
    if slo.rate_rps is None:
        return Aim((Objective(Goal.RATE),), slo_ms=slo.p99_ms)
    return Aim((Objective(Goal.COST),), slo_ms=slo.p99_ms, rate_rps=slo.rate_rps)


def memory_mb() -> int:
    """The machine's memory in MiB, for the constraints of a space."""
    import psutil

    return int(psutil.virtual_memory().total // 2**20)
