"""The runner: what is measured is saved, whatever happens next; several lanes measure at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from modelyard.domain.errors import BackendFailed, InvalidInput, Unavailable
from modelyard.domain.study import Point, Prediction, Study, Trial, TrialState
from modelyard.tune.ports import Measure, Outcome, Proposal, Search, Stop
from modelyard.tune.search import Means, run
from modelyard.tune.strategies import Strategies
from tests.unit.tune import scripted
from tests.unit.tune.scripted import Service


def made(search: Search, name: str = "random") -> Strategies:
    return Strategies.discover().make(name, search)  # type: ignore[return-value]


@dataclass
class Hub:
    """Keeps every state of a study."""

    saved: list[Study] = field(default_factory=list)

    def save(self, study: Study) -> None:
        self.saved.append(study)

    @property
    def last(self) -> Study:
        return self.saved[-1]


class Broken(Exception):
    """No error of Modelyard's."""


def failing(service: Service, at: int, error: BaseException) -> Measure:
    def measure(point: Point) -> Outcome:
        if len(service.measured) == at:
            raise error
        return service.measure(point)

    return measure


def means(service: Service, hub: Hub, measure: Measure | None = None) -> Means:
    return Means([measure or service.measure], service.confirm, hub.save)


def searched(study: Study) -> list[Trial]:
    return [trial for trial in study.trials if trial.confirms is None]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Broken("a bug"), InvalidInput("no such artifact")])
def test_what_was_measured_before_an_interrupt_or_an_error_is_saved(error: BaseException) -> None:
    search, hub = scripted.search(scripted.SERVICE, scripted.COST, budget=10), Hub()
    service = Service(search.aim)
    with pytest.raises(type(error)):
        run(scripted.study(search), search, made(search), means(service, hub, failing(service, 4, error)))
    assert len(hub.last.trials) == 4
    assert hub.last.answer is None


def test_a_resumed_search_makes_the_trials_of_one_that_was_not_interrupted() -> None:
    search = scripted.search(scripted.SERVICE, scripted.COST, budget=12)
    whole, hub = Hub(), Hub()
    run(scripted.study(search), search, made(search), means(Service(search.aim, noise=0.0), whole))
    service = Service(search.aim, noise=0.0)
    with pytest.raises(KeyboardInterrupt):
        interrupted = failing(service, 5, KeyboardInterrupt())
        run(scripted.study(search), search, made(search), means(service, hub, interrupted))
    run(hub.last, search, made(search), means(Service(search.aim, noise=0.0), hub))
    assert [(t.number, t.point, t.result) for t in hub.last.trials] == [
        (t.number, t.point, t.result) for t in whole.last.trials
    ]
    assert hub.last.answer == whole.last.answer


@pytest.mark.parametrize("error", [BackendFailed("it died"), Unavailable("no memory", why="16 GB are needed")])
def test_a_service_that_fails_is_a_trial(error: Exception) -> None:
    search, hub = scripted.search(scripted.SERVICE, scripted.COST, budget=6), Hub()
    service = Service(search.aim)
    calls = iter(range(100))

    def measure(point: Point) -> Outcome:
        if next(calls) == 2:
            raise error
        return service.measure(point)

    finished = run(scripted.study(search), search, made(search), means(service, hub, measure))
    assert [t.state for t in searched(finished)][2] is TrialState.FAILED
    assert searched(finished)[2].detail == str(error)
    assert len(searched(finished)) == 6


def test_an_answered_study_is_not_measured_again() -> None:
    search, hub = scripted.search(scripted.SERVICE, scripted.COST, budget=4), Hub()
    finished = run(scripted.study(search), search, made(search), means(Service(search.aim), hub))
    service, again = Service(search.aim), Hub()
    assert run(finished, search, made(search), means(service, again)) is finished
    assert (service.measured, again.saved) == ([], [])


def test_a_confirmation_that_was_interrupted_is_made_again_as_a_whole() -> None:
    search, hub = scripted.search(scripted.SERVICE, scripted.COST, budget=5), Hub()
    service = Service(search.aim)

    def interrupted(points: Sequence[Point], seed: int) -> list[Outcome]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scripted.study(search), search, made(search), replace(means(service, hub), confirm=interrupted))
    assert len(hub.last.trials) == 5
    finished = run(hub.last, search, made(search), means(service, hub))
    assert finished.answer is not None
    assert len(searched(finished)) == 5
    assert len(finished.trials) > 5


def test_the_prediction_stands_beside_what_was_measured() -> None:
    search, hub = scripted.search(scripted.SERVICE, scripted.COST, budget=3), Hub()
    told: list[tuple[int, Prediction | None]] = []
    wanted = replace(means(Service(search.aim), hub), started=lambda n, proposal, p: told.append((n, p)))
    finished = run(scripted.study(search), search, made(search), wanted)
    assert search.predict is not None
    assert [t.prediction for t in finished.trials] == [search.predict(t.point) for t in finished.trials]
    assert told == [(t.number, t.prediction) for t in searched(finished)]


def test_time_is_taken_from_the_clock_given() -> None:
    search, hub = scripted.search(scripted.SERVICE, scripted.COST, budget=2), Hub()
    ticks = iter(range(0, 1000, 10))
    wanted = replace(means(Service(search.aim), hub), clock_s=lambda: float(next(ticks)))
    assert [t.seconds for t in searched(run(scripted.study(search), search, made(search), wanted))] == [10.0, 10.0]


def test_why_a_search_ended_is_told() -> None:
    search, hub = scripted.search(scripted.TINY, scripted.FAST, budget=100), Hub()
    finished = run(scripted.study(search), search, made(search), means(Service(search.aim), hub))
    assert finished.answer is not None
    assert finished.answer.stopped == "every point of the space was tried"
    shorter = replace(search, budget=3)
    finished = run(scripted.study(shorter), shorter, made(shorter), means(Service(search.aim), hub))
    assert finished.answer is not None
    assert finished.answer.stopped == "the budget of 3 trials is used up"


@dataclass
class Lanes:
    """Two lanes that answer only when both have a point."""

    service: Service
    together: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=30))
    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: set[int] = field(default_factory=set)

    def measure(self, point: Point) -> Outcome:
        self.together.wait()
        with self.lock:
            self.threads.add(threading.get_ident())
            return self.service.measure(point)


@pytest.mark.parametrize("name", ["random", "bayesian", "tpe", "grid"])
def test_lanes_measure_different_points_at_once(name: str) -> None:
    search, hub = scripted.search(scripted.SERVICE, scripted.COST, budget=12), Hub()
    lanes = Lanes(Service(search.aim))
    wanted = Means([lanes.measure, lanes.measure], Service(search.aim).confirm, hub.save)
    finished = run(scripted.study(search), search, made(search, name), wanted)
    tried = [t.point for t in searched(finished)]
    assert len(set(tried)) == len(tried) == 12
    assert [t.number for t in finished.trials] == list(range(1, len(finished.trials) + 1))
    assert threading.get_ident() not in lanes.threads


def test_lanes_use_up_a_small_space_and_no_more() -> None:
    search, hub = scripted.search(scripted.TINY, scripted.FAST, budget=100), Hub()
    lanes = Lanes(Service(search.aim))
    wanted = Means([lanes.measure, lanes.measure], Service(search.aim).confirm, hub.save)
    finished = run(scripted.study(search), search, made(search), wanted)
    assert {t.point for t in searched(finished)} == set(search.space.points())
    assert len(searched(finished)) == 6


def test_what_other_lanes_measured_is_kept_when_one_breaks() -> None:
    search, hub = scripted.search(scripted.SERVICE, scripted.COST, budget=10), Hub()
    service, both = Service(search.aim), threading.Barrier(2, timeout=30)

    def good(point: Point) -> Outcome:
        both.wait()
        return service.measure(point)

    def bad(point: Point) -> Outcome:
        both.wait()
        raise Broken("a bug")

    with pytest.raises(Broken):
        run(scripted.study(search), search, made(search), Means([good, bad], service.confirm, hub.save))
    assert [t.point for t in hub.last.trials] == service.measured
    assert len(service.measured) == 1


class Patient:
    """Stops while anything is pending, then has one more."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def propose(self, trials: Sequence[Trial], pending: Sequence[Point] = ()) -> Proposal | Stop:
        left = [p for p in self._points if p not in {*(t.point for t in trials), *pending}]
        if pending or not left:
            return Stop("waiting" if pending else "done")
        return Proposal(left[0], "the next")


def test_a_strategy_that_stops_while_trials_run_is_asked_again() -> None:
    search, hub = scripted.search(scripted.TINY, scripted.FAST), Hub()
    service = Service(search.aim)
    lanes: list[Measure] = [lambda point: service.measure(point), lambda point: service.measure(point)]
    points = search.space.points()[:3]
    finished = run(scripted.study(search), search, Patient(points), Means(lanes, service.confirm, hub.save))
    assert [t.point for t in searched(finished)] == list(points)
    assert finished.answer is not None
    assert finished.answer.stopped == "done"


def test_a_search_needs_a_lane() -> None:
    search = scripted.search(scripted.TINY, scripted.FAST)
    with pytest.raises(InvalidInput, match="something to measure with"):
        run(scripted.study(search), search, made(search), Means([], Service(search.aim).confirm, Hub().save))
