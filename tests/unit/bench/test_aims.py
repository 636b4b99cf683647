"""The aims of the serving benchmark: which cells they compare, and how."""

from __future__ import annotations

import pytest

from bench.serving.aims import Verdict, verdicts
from bench.serving.plan import Line
from bench.serving.results import Results, Side, Turns
from bench.serving.systems.ports import BINARY, GRPC, JSON
from tests.unit.bench.results import add, empty, timing

OURS = Side("modelyard", True)


def found(results: Results, part: str) -> Verdict:
    (one,) = [verdict for verdict in verdicts(results) if part in verdict.text]
    return one


def test_a_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    results = empty()
    # medians of each alone would say 50 / 100; within the rounds it was 0.5, 0.4 and 0.25
    add(results, "mlp", Line("modelyard", True, JSON), 32, [timing(0, 100), timing(1, 40), timing(2, 50)])
    add(results, "mlp", Line("nginx", None, JSON), 32, [timing(0, 200), timing(1, 100), timing(2, 200)])
    verdict = found(results, "REST JSON, 32 connections: of nginx")
    assert verdict.found == pytest.approx(0.4)
    assert verdict.word == "met"


def test_rounds_that_only_one_of_two_cells_has_are_left_out() -> None:
    results = empty()
    add(results, "mlp", Line("modelyard", True, BINARY), 32, [timing(0, 10), timing(1, 90)])
    add(results, "mlp", Line("nginx", None, BINARY), 32, [timing(1, 100)])
    assert found(results, "REST binary, 32 connections: of nginx").found == pytest.approx(0.9)


def test_the_best_python_peer_is_the_fastest_line_of_them_all_and_named() -> None:
    results = empty()
    add(results, "mlp", Line("modelyard", True, JSON), 32, [timing(0, 50_000)])
    add(results, "mlp", Line("fastapi", None, JSON), 32, [timing(0, 3000)])
    add(results, "mlp", Line("mlserver", False, JSON), 32, [timing(0, 2000)])
    add(results, "mlp", Line("mlserver", True, JSON), 32, [timing(0, 4000)])
    add(results, "mlp", Line("triton", True, JSON), 32, [timing(0, 9000)])  # not a Python server
    add(results, "mlp", Line("torchserve", True, JSON), 32, [timing(0, 5000)])  # it has a verdict of its own
    verdict = found(results, "whose server is Python")
    assert verdict.found == pytest.approx(12.5)
    assert verdict.word == "missed"
    assert verdict.note == "the best is mlserver"


def test_latency_aims_are_differences_and_upper_bounds() -> None:
    results = empty()
    floor = results.turns_of("mlp", OURS, Side("floor", None), JSON)
    floor.rounds += [Turns(0, 0.025, 0.050, 0.025), Turns(1, 0.020, 0.1, 0.05), Turns(2, 0.09, 0.1, 0.01)]
    verdict = found(results, "REST JSON, 1 connection: p50 above the raw protocol floor")
    assert verdict.found == pytest.approx(25)
    assert verdict.word == "met"
    alone = results.turns_of("resnet50", OURS, Side("in-process", None), BINARY)
    alone.rounds.append(Turns(0, 0.5, 50.5, 50.0))
    verdict = found(results, "p50 above the in-process runtime")
    assert verdict.found == pytest.approx(0.5)
    assert verdict.word == "missed"


def test_an_aim_without_its_cells_says_so() -> None:
    assert {verdict.word for verdict in verdicts(empty())} == {"not measured"}


def test_a_cell_that_failed_in_every_round_counts_as_not_measured() -> None:
    results = empty()
    add(results, "mlp", Line("modelyard", True, GRPC), 32, [timing(0, 100)])
    add(results, "mlp", Line("kserve", None, GRPC), 32, [])
    assert found(results, "of KServe").word == "not measured"
