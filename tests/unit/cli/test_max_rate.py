"""`yard max-rate` asks for the right search and prints the answer with all it rests on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from modelyard.domain.artifacts import Target
from modelyard.domain.configuration import Batching, Slo
from modelyard.domain.measurement import Interval
from modelyard.domain.workload import Protocol
from modelyard.profile.max_rate import MaxRate, search
from modelyard.profile.slo_evidence import Evidence, Limits, Load
from modelyard.workflow.max_rate import FoundMaxRate, MaxRateRequest
from modelyard.workflow.values import DeployRequest
from tests.builders import configuration
from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import FakeYard

Yard = Callable[..., Run]


def queue(load: Load) -> Evidence:
    """1000 requests/s; p99 is 2 ms over what is left of the capacity, +-10 %."""
    if load.rate_rps is None:
        return Evidence(None, 1000.0, measurement="c" * 32)
    p99 = 2.0 / (1 - load.rate_rps / 1000)
    return Evidence(Interval(p99, 0.9 * p99, 1.1 * p99), load.rate_rps, measurement="p" * 32)


class Answering(FakeYard):
    def __init__(self, answer: MaxRate) -> None:
        super().__init__()
        self.answer = answer

    def max_rate(self, ref: str, request: MaxRateRequest, *, listener: Any) -> FoundMaxRate:
        self.calls.append(("max-rate", (ref, request)))
        return FoundMaxRate("digits", 1, configuration(), Slo(20), Protocol.GRPC, 1, self.answer)


FOUND = search(20.0, queue)
NONE = search(1.0, queue)


def test_every_option_is_passed_on(yard: Yard) -> None:
    over = Answering(FOUND)
    argv = "--target onnx --runtime onnxruntime --threads 2 --replicas 3 --max-batch 8 --max-delay-us 500 --device cpu"
    more = "--protocol grpc --batch 4 --requests 500 --duration 5 --seed 9 --again"
    run = yard("max-rate", "digits:1", "--slo", "p99 <= 20 ms", *argv.split(), *more.split(), over=over)
    assert run.code == 0, run.err
    assert over.calls == [
        (
            "max-rate",
            (
                "digits:1",
                MaxRateRequest(
                    slo=Slo(20),
                    deployment=DeployRequest(
                        target=Target("onnx"),
                        runtime="onnxruntime",
                        device="cpu",
                        threads=2,
                        replicas=3,
                        batching=Batching(8, 500),
                    ),
                    protocol=Protocol.GRPC,
                    batch=4,
                    seed=9,
                    limits=Limits(requests=500, confirm_block_s=5.0, most_block_s=5.0),
                    again=True,
                ),
            ),
        )
    ]


def test_nothing_given_is_the_version_as_it_would_be_deployed(yard: Yard) -> None:
    over = Answering(FOUND)
    assert yard("max-rate", "digits", over=over).code == 0
    assert over.calls == [("max-rate", ("digits", MaxRateRequest()))]


@pytest.mark.parametrize("width", ["80", "100"])
def test_the_answer_is_shown_with_its_interval_and_every_measurement(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    text = yard("max-rate", "digits", over=Answering(FOUND)).out
    assert "requests/s" in text.splitlines()[0]
    assert str(FOUND.p99_ms) in text
    assert text.count("probe") == 3
    assert "confirm" in text
    assert max(map(len, text.splitlines())) <= int(width)


def test_no_answer_is_exit_code_4_with_the_reason(yard: Yard) -> None:
    run = yard("max-rate", "digits", over=Answering(NONE))
    assert run.code == 4
    assert "none" in run.out.splitlines()[0]
    assert "too slow at any rate" in run.out


def test_a_provisional_answer_is_never_shown_as_a_plain_one(yard: Yard) -> None:
    run = yard("max-rate", "digits", over=Answering(replace(FOUND, provisional=True)))
    assert "provisional" in run.out.splitlines()[0]


def test_json_has_the_answer_and_the_measurements_ids(yard: Yard) -> None:
    run = yard("max-rate", "digits", "--json", "-q", over=Answering(FOUND))
    assert json.loads(run.out)["kind"] == "max-rate"
    answer = run.data["answer"]
    assert answer["rate_rps"] == FOUND.rate_rps
    assert answer["feasible_max_rps"] == FOUND.feasible_max_rps
    assert answer["stop"] == "confirmed"
    assert [p["evidence"]["measurement"][0] for p in answer["probes"]][:2] == ["c", "p"]


def test_an_slo_that_is_none_is_said(yard: Yard) -> None:
    run = yard("max-rate", "digits", "--slo", "quick", "--json", over=Answering(FOUND))
    assert run.code == 2
    assert "'quick' is not an SLO" in run.error["what"]
