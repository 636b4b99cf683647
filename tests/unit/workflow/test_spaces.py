"""What a point of a space means, and which spaces a version has."""

from __future__ import annotations

import pytest

from modelyard.domain.artifacts import Standing
from modelyard.domain.configuration import Batching, Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Point
from modelyard.domain.workload import Protocol
from modelyard.tune.knobs import Choice, Integer, Real
from modelyard.tune.space import Space
from modelyard.workflow.spaces import Meaning, default_space
from tests.builders import artifact

SOURCE = artifact("a-torch", target="pytorch-exported", standing=Standing.SOURCE)
ONNX = artifact("a-onnx", target="onnx", standing=Standing.PROVEN)
BROKEN = artifact("a-int8", target="onnx:int8-dynamic", standing=Standing.PROVEN)
RUNTIMES = {"a-torch": "torch", "a-onnx": "onnxruntime"}


def meaning(slo: Slo | None = None, cores: int = 4) -> Meaning:
    return Meaning.of([SOURCE, ONNX, BROKEN], RUNTIMES, cores, slo)


def test_the_default_space_has_every_artifact_that_runs_here_and_keeps_to_the_cores():
    space = default_space(meaning(), batched=True)
    points = space.points()
    assert {p["artifact"] for p in points} == {"pytorch-exported", "onnx"}
    assert all(int(p["threads"]) * int(p["replicas"]) <= 4 for p in points)
    assert all(p.get("max_delay_us") is None for p in points if p["max_batch"] == 1)
    assert len(points) == 2 * 6 * (1 + 6 * 4)


def test_a_model_without_a_batch_has_no_knobs_for_it():
    assert list(default_space(meaning(), batched=False).knobs) == ["artifact", "threads", "replicas"]


def test_a_point_means_a_configuration():
    point = Point.of(
        {"artifact": "onnx", "threads": 2, "replicas": 2, "max_batch": 8, "max_delay_us": 500, "cpu_limit": 1.5,
         "memory_mb": 512, "protocol": "grpc"}
    )  # fmt: skip
    found = meaning(Slo(20, 100)).configuration(point)
    assert (found.artifact, found.runtime, found.threads, found.replicas) == ("a-onnx", "onnxruntime", 2, 2)
    assert found.batching == Batching(8, 500)
    assert (found.cpu_limit, found.memory_limit_bytes) == (1.5, 512 * 2**20)
    assert found.queue.slo_ms == 20
    assert meaning().protocol(point) is Protocol.GRPC


def test_knobs_that_a_space_leaves_out_are_as_in_the_default():
    found = meaning().configuration(Point.of({"max_batch": 4}))
    assert (found.artifact, found.threads, found.replicas, found.batching) == ("a-torch", 4, 1, Batching(4, 0))
    assert found.queue.slo_ms is None


def test_the_default_point_is_the_source_alone_on_all_cores():
    assert dict(meaning().default(default_space(meaning(), batched=True))) == {
        "artifact": "pytorch-exported", "threads": 4, "replicas": 1, "max_batch": 1,
    }  # fmt: skip


def test_the_default_point_is_the_nearest_where_a_space_has_no_such():
    space = Space(
        {
            "artifact": Choice(("onnx",)),
            "threads": Integer(1, 2),
            "max_batch": Choice((8, 32)),
            "max_delay_us": Integer(0, 1000, log2=True, step=500, when={"max_batch": (32,)}),
            "memory_mb": Real(500, 800),
        }
    )
    found = dict(meaning().default(space))
    assert found == {"artifact": "onnx", "threads": 2, "max_batch": 8, "memory_mb": 800}


def test_the_default_point_keeps_the_constraints():
    space = Space({"threads": Integer(1, 4), "replicas": Integer(2, 4)}, ("threads * replicas <= 4",))
    assert space.check(meaning().default(space)) is None


@pytest.mark.parametrize(
    ("knobs", "what"),
    [
        ({"thread": Integer(1, 2)}, "no configuration has a knob 'thread'.*'threads'"),
        ({"artifact": Choice(("onnx", "openvino"))}, "'openvino' is no artifact that can be served"),
        ({"artifact": Choice(("onnx:int8-dynamic",))}, "no artifact that can be served"),
        ({"protocol": Choice(("http",))}, "'http' is no protocol"),
        ({"artifact": Integer(1, 2)}, "must be a choice"),
    ],
)
def test_what_no_configuration_has_is_said(knobs, what):
    with pytest.raises(InvalidInput, match=what):
        meaning().check(Space(knobs))


def test_knobs_that_a_space_leaves_out_are_told():
    fixed = meaning().fixed(Space({"threads": Integer(1, 4)}))
    assert dict(fixed) == {"artifact": "pytorch-exported", "replicas": 1, "max_batch": 1, "protocol": "http-binary"}
    assert dict(fixed) == {k: v for k, v in meaning().defaults.items() if k in dict(fixed)}


def test_a_batch_size_is_no_knob_of_a_model_without_a_batch():
    space = Space({"max_batch": Choice((1, 8))})
    meaning().check(space)
    with pytest.raises(InvalidInput, match="no batch dimension"):
        meaning().check(space, batched=False)
