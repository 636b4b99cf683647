"""How users write references, targets and SLOs."""

from __future__ import annotations

import pytest

from modelyard.domain.artifacts import Precision, Target
from modelyard.domain.configuration import Batching, Configuration, QueuePolicy, Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.versions import ModelRef
from modelyard.domain.workload import Arrival, Workload


@pytest.mark.parametrize("text", ["digits", "digits:3", "digits@production", "a.b-c_d:12"])
def test_references_round_trip(text: str) -> None:
    assert str(ModelRef.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "Digits", "digits:", "digits:0", "digits:x", "digits@", "-a", "12", "a/b", "a" * 200]
)
def test_a_bad_reference_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInput) as error:
        ModelRef.parse(text)
    assert error.value.hint


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("onnx", Precision.FP32),
        ("onnx:optimized", Precision.FP32),
        ("onnx:int8-dynamic", Precision.INT8),
        ("onnx:fp16", Precision.FP16),
        ("openvino:bf16", Precision.BF16),
    ],
)
def test_a_target_names_its_precision(text: str, precision: Precision) -> None:
    target = Target.parse(text)
    assert target.precision is precision
    assert str(target) == text


@pytest.mark.parametrize("text", ["", ":fp16", "onnx:"])
def test_a_bad_target_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Target.parse(text)


def test_slos_parse_and_print_alike() -> None:
    assert Slo.parse("p99 <= 20 ms at 200 rps") == Slo(20, 200)
    assert Slo.parse("p99<=1.5ms") == Slo(1.5)
    assert str(Slo(20, 200)) == "p99 <= 20 ms at 200 rps"


@pytest.mark.parametrize("text", ["p95 <= 20 ms", "20 ms", "p99 <= -1 ms", "p99 <= 0 ms"])
def test_a_bad_slo_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Slo.parse(text)


def test_knobs_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInput):
        Batching(max_size=0)
    with pytest.raises(InvalidInput):
        QueuePolicy(max_requests=0)
    with pytest.raises(InvalidInput):
        Configuration("a", Target("onnx"), "onnxruntime", Precision.FP32, threads=0)
    with pytest.raises(InvalidInput, match="replicas from 1 to 1024"):
        Configuration("a", Target("onnx"), "onnxruntime", Precision.FP32, replicas=2**40)
    with pytest.raises(InvalidInput, match="tpu"):
        Configuration("a", Target("onnx"), "onnxruntime", Precision.FP32, device="tpu")


def test_a_workload_is_closed_or_has_a_rate() -> None:
    with pytest.raises(InvalidInput):
        Workload(Arrival.CLOSED, rate_rps=10)
    with pytest.raises(InvalidInput):
        Workload(Arrival.POISSON)
    assert Workload(Arrival.POISSON, rate_rps=10).open_loop
