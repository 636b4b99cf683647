"""The design-space experiment on a small XGBoost model: real services, one table, and nothing is measured twice."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest

import modelyard
from modelyard.domain.study import Study
from modelyard.domain.versions import ModelRef
from tests import small_model
from tests.calibration import NewHome

FOLDER = Path(__file__).parents[2] / "examples" / "design_space"
SPACE = """
knobs:
  artifact: {choice: [xgboost]}
  cpu_limit: {real: [0.3, 0.6]}
  replicas: {integer: [1, 2]}
  threads: {integer: [1, 2]}
  max_batch: {choice: [1, 8]}
constraints:
  - replicas * cpu_limit <= cores
"""


@dataclass(frozen=True)
class Made:
    """What two runs of the experiment found, and how many measurements the hub had after each."""

    findings: ModuleType
    out: Path
    first: object
    second: object
    counts: tuple[int, int]
    studies: list[Study]
    defaults_only: object


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, calibrated: NewHome) -> Iterator[Made]:
    out, home = tmp_path_factory.mktemp("out"), calibrated()
    models = out / "models"
    models.mkdir()
    small_model.write(models, name="small.yaml")
    (out / "small.space.yaml").write_text(SPACE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        experiment, findings = importlib.import_module("experiment"), importlib.import_module("findings")
    scale = experiment.Scale(("small",), (4,), 1, levels=(2,), verify=1, blocks=2, joint=3, shorter=0.2)
    with modelyard.open(modelyard.Settings.read({}, home=home)) as yard:
        made, counts = [], []
        for _ in range(2):
            made.append(experiment.Experiment(yard, scale, out, False, lambda _: None, spaces=out).run())
            counts.append(len(yard.hub.measurements.list(ModelRef("small", 1))))
        studies, unsearched = yard.studies("small:1"), replace(scale, budget=0, levels=(1, 2))
        defaults_only = experiment.Experiment(yard, unsearched, out, False, lambda _: None, spaces=out).run()
        assert yard.studies("small:1") == studies
        yield Made(findings, out, made[0], made[1], (counts[0], counts[1]), studies, defaults_only)


def test_every_search_is_there_with_its_budget_and_a_confirmed_winner(made: Made) -> None:
    (cell,) = made.first.cells
    assert [(run.label, run.trials) for run in cell.runs] == [("A", 1), ("B", 2), ("C", 2), ("D", 1)]
    for run in cell.runs:
        assert run.best is not None
        assert run.best.measured, run.best.verdict
        assert len(run.best.logs) == 3, "blocks"
        assert (made.out / run.report).is_file()
    assert cell.defaults["default"].measured


def test_the_searches_share_what_was_measured(made: Made) -> None:
    a, b, c, _ = (study for study in made.studies)
    searched = [[t for t in study.trials if t.confirms is None][:1] for study in (a, b, c)]
    assert [t.point for t in searched[0]] == [t.point for t in searched[1]] == [t.point for t in searched[2]]
    assert [t.result for t in searched[0]] == [t.result for t in searched[1]] == [t.result for t in searched[2]]


def test_without_a_cgroup_no_cap_is_searched_and_the_default_is_one(made: Made) -> None:
    assert all("cpu_limit" not in dict(trial.point) for study in made.studies for trial in study.trials)
    (cell,) = made.first.cells
    assert list(cell.defaults) == ["default"]


def test_the_default_is_measured_under_every_load(made: Made) -> None:
    (loads,) = made.first.default_by_model.values()
    assert [load.concurrency for load in loads] == [2]
    assert all(load.mean_ms > 0 and load.throughput_rps > 0 for load in loads)
    assert (made.out / "small-default.html").is_file()


def test_a_second_run_finds_the_same_and_measures_nothing(made: Made) -> None:
    assert made.second == made.first
    assert made.counts[0] == made.counts[1]


def test_the_table_tells_the_gains(made: Made) -> None:
    text = made.findings.markdown(made.first)
    row = next(line for line in text.splitlines() if line.startswith("| small | 4 | 1 |"))
    assert row.count("%") >= len(made.findings.QUESTIONS)


def test_without_a_budget_only_the_default_is_measured_and_what_was_found_before_is_kept(made: Made) -> None:
    assert made.defaults_only.cells == made.second.cells
    assert [load.concurrency for load in made.defaults_only.default_by_model["small"]] == [1, 2]
