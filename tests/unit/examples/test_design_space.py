"""The design-space experiment: who is compared with whom, on which points, and what the tables say."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from modelyard.domain.measurement import Interval
from modelyard.domain.study import Aim, Knob, Point, Result, Study, Trial, TrialState
from modelyard.tune.ports import Proposal, Search
from modelyard.tune.space import Space
from modelyard.tune.strategies import Strategies
from modelyard.workflow.spaces import KNOBS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "design_space"
AIM = Aim.parse("min mean at 20 concurrent")
MODELS = ("gan-discriminator", "resnet-cifar", "translation")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The scripts as Python runs them: their folder is where modules are looked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield {name: importlib.import_module(name) for name in ("explore", "experiment", "findings")}


@pytest.fixture
def explore(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["explore"]


@pytest.fixture
def experiment(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["experiment"]


@pytest.fixture
def findings(modules: dict[str, ModuleType]) -> ModuleType:
    return modules["findings"]


def space_text(model: str) -> str:
    return (FOLDER / f"{model}.space.yaml").read_text(encoding="utf-8")


def space_of(text: str, cores: int) -> Space:
    return Space.parse(text, {"cores": cores, "memory": 16_000})


@pytest.mark.parametrize("cores", [1, 2, 8])
@pytest.mark.parametrize("model", MODELS)
def test_every_space_is_read_with_and_without_caps(experiment: ModuleType, model: str, cores: int) -> None:
    capped, free = space_of(space_text(model), cores), space_of(experiment.without_caps(space_text(model)), cores)
    assert set(capped.knobs) <= set(KNOBS)
    assert list(free.knobs) == [name for name in capped.knobs if name != "cpu_limit"]
    rng = np.random.default_rng(0)
    for _ in range(50):
        point = capped.sample(rng)
        assert int(point["replicas"]) * float(point["cpu_limit"]) <= cores
        point = free.sample(rng)
        assert int(point["replicas"]) * int(point["threads"]) <= cores


def proposed(searched: object, space: Space, count: int, seed: int) -> list[Point]:
    """The first points of a search; every trial fails, which initial points do not mind."""
    search = Search(space, AIM, space.sample(np.random.default_rng(1)), 50, seed)
    strategy = Strategies.discover().make(searched.strategy, search, searched.options)  # type: ignore[attr-defined]
    trials: list[Trial] = []
    while len(trials) < count:
        following = strategy.propose(trials)
        assert isinstance(following, Proposal)
        trials.append(Trial(len(trials) + 1, following.point, TrialState.FAILED, following.reason))
    return [trial.point for trial in trials]


@pytest.mark.parametrize("model", MODELS)
def test_the_longer_searches_begin_with_the_points_of_the_shorter(experiment: ModuleType, model: str) -> None:
    scale = experiment.Scale((model,), (20,), 25)
    a, b, c, _ = experiment.searches(scale)
    space = space_of(space_text(model), cores=2)
    points = [proposed(searched, space, scale.budget, seed=3) for searched in (a, b, c)]
    assert points[0] == points[1] == points[2]
    assert len(set(points[0])) == scale.budget


def test_random_and_bayesian_have_equal_budgets(explore: ModuleType, experiment: ModuleType) -> None:
    a, b, c, d = experiment.searches(explore.arguments(["--budget", "10"])[0])
    assert (a.budget, b.budget, c.budget, d.budget) == (10, 20, 20, 6)
    assert c.options["stop_ei"] == 0, "it uses its budget up"


def test_quick_is_one_short_cell_unless_more_is_asked_for(explore: ModuleType) -> None:
    quick, quick_out = explore.arguments(["--quick"])
    whole, out = explore.arguments([])
    assert quick_out != out, "their results are not mixed"
    assert (quick.models, quick.concurrency) == (("gan-discriminator",), (20,))
    assert quick.seconds() < 6 * 60 < whole.seconds()
    wider, _ = explore.arguments(["--quick", "--concurrency", "1,60", "--model", "translation"])
    assert (wider.models, wider.concurrency) == (("translation",), (1, 60))


def test_without_a_budget_nothing_is_searched(explore: ModuleType) -> None:
    none, _ = explore.arguments(["--budget", "0"])
    assert none.cells == []
    assert none.seconds() < explore.arguments(["--budget", "1"])[0].seconds() / 3


@pytest.mark.parametrize("words", [["--budget", "-1"], ["--seeds", "0"], ["--concurrency", "0"], ["--model", "bert"]])
def test_what_cannot_be_run_is_refused(
    explore: ModuleType, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        explore.arguments(words)
    assert raised.value.code == 2
    assert words[0] in capsys.readouterr().err


def trial(number: int, n: int, mean_ms: float, confirms: int | None = None) -> Trial:
    result = Result((math.log(mean_ms),), (0.01,), (Interval(mean_ms),), None, True, "valid")
    return Trial(number, Point.of({"n": n}), TrialState.MEASURED, "", result, confirms=confirms)


def study(*trials: Trial) -> Study:
    options: dict[str, Knob] = {}
    return Study("std-1", "m", 1, AIM, None, "", "random", options, 3, 0, "here", Point.of({"n": 0}), trials)


def test_a_searchs_winner_is_its_best_confirmed_trial_and_never_the_default(experiment: ModuleType) -> None:
    searched = (trial(1, 1, 8.0), trial(2, 2, 7.0))
    found = experiment.winner(study(*searched, trial(3, 1, 9.0, confirms=1), trial(4, 2, 9.5, 2), trial(5, 0, 1.0, 0)))
    assert found is not None
    best, seen_ms = found
    assert (best.point, seen_ms) == (Point.of({"n": 1}), 8.0)
    assert experiment.winner(study(*searched, trial(3, 0, 1.0, confirms=0))) is None


def confirmed(findings: ModuleType, name: str, *means_ms: float) -> object:
    logs = tuple(math.log(mean) for mean in means_ms)
    return findings.Confirmed(name, True, "valid", float(np.mean(means_ms)), None, None, logs)


def cell_of(findings: ModuleType, seed: int = 0, **winners: object) -> object:
    runs = tuple(findings.Run(label, label, f"std-{label}", 6, 1, 5.0, best) for label, best in winners.items())
    slow = confirmed(findings, "plain", 20.0, 20.0, 20.0)
    return findings.Cell("gan-discriminator", 20, seed, runs, {"default": slow})


def test_a_gain_is_the_share_by_which_the_mean_falls(findings: ModuleType) -> None:
    cell = cell_of(findings, A=confirmed(findings, "a", 10.0, 10.0, 10.0), C=confirmed(findings, "c", 8.0, 8.0, 8.0))
    assert findings.gain(cell, "C", "A").value == pytest.approx(0.2)
    assert findings.gain(cell, "A", "C").value == pytest.approx(-0.25)
    assert findings.gain(cell, "C", "default").value == pytest.approx(0.6)


def test_what_disturbed_both_alike_does_not_widen_a_gain(findings: ModuleType) -> None:
    drift = np.array([1.0, 2.0, 1.5, 3.0])
    a, c = confirmed(findings, "a", *(10 * drift)), confirmed(findings, "c", *(9 * drift))
    found = findings.gain(cell_of(findings, A=a, C=c), "C", "A")
    assert (found.low, found.value, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_the_interval_of_a_gain_holds_the_truth_as_often_as_it_says(findings: ModuleType) -> None:
    random = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        noise = np.exp(0.05 * random.standard_normal((2, 10)))
        a, c = confirmed(findings, "a", *(10 * noise[0])), confirmed(findings, "c", *(9 * noise[1]))
        found = findings.gain(cell_of(findings, A=a, C=c), "C", "A")
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_the_same_configuration_gains_nothing_over_itself(findings: ModuleType) -> None:
    same = confirmed(findings, "a", 10.0, 11.0)
    assert str(findings.gain(cell_of(findings, A=same, B=same), "B", "A")) == "+0.0% [+0.0%, +0.0%]"


def test_what_did_not_run_has_no_gain_and_is_told(findings: ModuleType) -> None:
    lost = findings.Confirmed("c", False, "failed: it did not start again")
    cell = cell_of(findings, A=confirmed(findings, "a", 10.0, 10.0), C=lost, D=None)
    assert findings.gain(cell, "C", "A") is None
    assert findings.gain(cell, "D", "A") is None
    text = findings.markdown(findings.Findings("here", True, {}, (cell,)))
    assert "failed: it did not start again" in text
    assert "nothing that ran" in text


def test_gains_of_several_seeds_are_joined_by_their_ratios(findings: ModuleType) -> None:
    cells = [
        cell_of(findings, seed, A=confirmed(findings, "a", 10.0, 10.0), C=confirmed(findings, "c", mean, mean))
        for seed, mean in enumerate((5.0, 20.0))
    ]
    joined = findings.together([findings.gain(cell, "C", "A") for cell in cells])
    assert joined.value == pytest.approx(0.0), "twice as fast and half as fast"
    assert joined.low < 0 < joined.high
    text = findings.markdown(findings.Findings("here", True, {}, tuple(cells)))
    row = next(line for line in text.splitlines() if line.startswith("| gan-discriminator | 20 | 2 |"))
    assert row.count("|") == 4 + len(findings.QUESTIONS)


def test_tables_have_every_search_default_and_load(findings: ModuleType) -> None:
    winners = {label: confirmed(findings, label.lower(), 10.0, 10.0) for label in "ABCD"}
    load = findings.Load(5, 12.3, 12.0, 12.6, None, 400.0, "provisional", "msr-1")
    text = findings.markdown(
        findings.Findings("here", True, {"gan-discriminator": (load,)}, (cell_of(findings, **winners),))
    )
    assert "| 5 | 12.3 [12.0, 12.6] | - | 400 | provisional |" in text
    assert [line for label in "ABCD" for line in text.splitlines() if line.startswith(f"| {label} | {label} | 6 (1) |")]
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_results_are_read_back_as_they_were_written(findings: ModuleType) -> None:
    cell = cell_of(findings, A=confirmed(findings, "a", 10.0, 11.0), B=None)
    load = findings.Load(1, None, None, None, None, 4.0, "invalid", "msr-1")
    found = findings.Findings("here", False, {"gan-discriminator": (load,)}, (cell, replace(cell, seed=1)))
    assert msgspec.json.decode(msgspec.json.encode(found), type=findings.Findings) == found


def test_a_cell_takes_the_place_of_an_earlier_one(findings: ModuleType) -> None:
    found = findings.Findings("here", True, {}, ())
    for seed, mean in ((1, 10.0), (0, 9.0), (1, 8.0)):
        found = found.having(cell_of(findings, seed, A=confirmed(findings, "a", mean, mean)))
    assert [(c.seed, c.confirmed("A").mean_ms) for c in found.cells] == [(0, 9.0), (1, 8.0)]


def test_the_page_has_every_option_and_comparison(explore: ModuleType, findings: ModuleType) -> None:
    page = (ROOT / "docs" / "design-space.md").read_text(encoding="utf-8")
    options = {o for action in explore.parser()._actions for o in action.option_strings if o.startswith("--")}
    assert set(re.findall(r"`(--[a-z]+)", page)) == options - {"--help"}
    for one, other, _ in findings.QUESTIONS:
        assert f"| {one} over {other} |" in page
    for model in MODELS:
        assert f"{model}.space.yaml" in page
