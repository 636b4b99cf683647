"""The search: propose, measure, save, until the budget is used up; then measure the best again before one is named."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from modelyard.domain.errors import BackendFailed, InvalidInput, Rejected, Unavailable, Unsupported
from modelyard.domain.study import Prediction, Study, Trial, TrialState
from modelyard.tune import conclusion
from modelyard.tune.conclusion import Rules
from modelyard.tune.ports import Confirm, Measure, Outcome, Proposal, Search, Stop, Strategy


def _silent(number: int, proposal: Proposal, prediction: Prediction | None) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a search works with.

    `lanes`: what measures a point, one for each place that cannot disturb another: one per node, and so exactly one on
    one machine, where trials at the same time would share caches and memory bandwidth. With several, each is called
    in a thread of its own, one point at a time. `save` is called after every trial and with the answer, always from the
    thread that called `run`; `started` is told each proposal with its trial's expected number.
    """

    lanes: Sequence[Measure]
    confirm: Confirm
    save: Callable[[Study], None]
    started: Callable[[int, Proposal, Prediction | None], None] = _silent
    clock_s: Callable[[], float] = time.monotonic
    rules: Rules = field(default_factory=Rules)


def run(study: Study, search: Search, strategy: Strategy, means: Means) -> Study:
    """Go on with a study until it has its answer, and return it; one that has an answer is returned as it is.

    What is done is saved: after an interrupt or a crash the saved study is gone on with by the same call. A
    confirmation is saved with the answer, so one that was interrupted is made again as a whole: its points are compared
    with one another. An interrupt ends a single lane at once; with several it waits for the trials that run. Raises
    what `means.save` raises, and errors of `means` that are not a trial's.
    """
    if not means.lanes:
        raise InvalidInput("a search needs something to measure with")
    if study.answer is not None:
        return study
    searching = _Run(study, search, strategy, means)
    stopped = searching.alone() if len(means.lanes) == 1 else searching.side_by_side()
    answered = conclusion.conclude(searching.study, search, stopped, means.confirm, means.rules, means.clock_s)
    means.save(answered)
    return answered


def budget_spent(study: Study) -> str:
    """Why a search ends that has measured as much as it may."""
    return f"the budget of {study.budget} trial{'s' if study.budget > 1 else ''} is used up"


@dataclass(frozen=True, slots=True)
class _Task:
    proposal: Proposal
    prediction: Prediction | None
    lane: int
    began_s: float


class _Run:
    """One call of `run`: the study as it grows, and what is being measured."""

    def __init__(self, study: Study, search: Search, strategy: Strategy, means: Means) -> None:
        self.study = study
        self._search, self._strategy, self._means = search, strategy, means
        self._tasks: dict[Future[Outcome], _Task] = {}

    def alone(self) -> str:
        """One trial after the other, in this thread. Returns why it ended."""
        while True:
            following = self._propose(0)
            if isinstance(following, str):
                return following
            self._record(following, _attempt(self._means.lanes[0], following.proposal))

    def side_by_side(self) -> str:
        """As many trials at once as there are lanes. Returns why it ended."""
        with ThreadPoolExecutor(len(self._means.lanes), thread_name_prefix="lane") as pool:
            try:
                while True:
                    stopped = self._fill(pool)
                    if not self._tasks:
                        return stopped
                    self._collect(FIRST_COMPLETED)
            finally:
                # an interrupt, or an error of a lane: what the others have measured by then is kept
                while self._tasks:
                    self._collect(FIRST_COMPLETED)

    def _fill(self, pool: ThreadPoolExecutor) -> str:
        """Give every free lane a point. Returns why there was none for one of them; empty where all have one."""
        busy = [task.lane for task in self._tasks.values()]
        for lane, measure in enumerate(self._means.lanes):
            if lane in busy:
                continue
            following = self._propose(lane)
            if isinstance(following, str):
                return following
            self._tasks[pool.submit(_attempt, measure, following.proposal)] = following
        return ""

    def _collect(self, when: str) -> None:
        """Wait for trials that run, and record them."""
        done, _ = wait(self._tasks, return_when=when)
        ended = [(self._tasks.pop(future), future) for future in done]
        for task, future in ended:
            if future.exception() is None:
                self._record(task, future.result())
        for _, future in ended:
            future.result()

    def _propose(self, lane: int) -> _Task | str:
        """The next point for a lane, or why there is none."""
        trials, pending = self.study.trials, [task.proposal.point for task in self._tasks.values()]
        if len(trials) + len(pending) >= self.study.budget:
            return budget_spent(self.study)
        proposal = self._strategy.propose(trials, pending)
        if isinstance(proposal, Stop):
            return proposal.reason
        prediction = None if self._search.predict is None else self._search.predict(proposal.point)
        self._means.started(len(trials) + len(pending) + 1, proposal, prediction)
        return _Task(proposal, prediction, lane, self._means.clock_s())

    def _record(self, task: _Task, outcome: Outcome) -> None:
        trial = Trial(
            number=len(self.study.trials) + 1,
            point=task.proposal.point,
            state=outcome.state,
            reason=task.proposal.reason,
            result=outcome.result,
            prediction=task.prediction,
            detail=outcome.detail,
            seconds=self._means.clock_s() - task.began_s,
        )
        self.study = replace(self.study, trials=(*self.study.trials, trial))
        self._means.save(self.study)


def _attempt(measure: Measure, proposal: Proposal) -> Outcome:
    try:
        return measure(proposal.point)
    except (BackendFailed, Unavailable, Unsupported, Rejected) as error:
        return Outcome(TrialState.FAILED, detail=str(error))
