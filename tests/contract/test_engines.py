"""What every engine does, whatever runs in its replicas: the Engine Protocol over each engine and replica program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from modelyard.client import Client
from modelyard.dispatch import Engine
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, NotFound
from modelyard.domain.services import Endpoint, ReplicaSpec, ReplicaState, ServedModel, ServiceState
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from tests import engine_harness


@dataclass(frozen=True)
class Place:
    """An engine, specs by version, one that cannot start, and the version that an endpoint's answer shows."""

    engine: Engine
    spec: Callable[[int], ReplicaSpec]
    broken: ReplicaSpec
    answer: Callable[[Endpoint], int]

    def probe(self, endpoint: Endpoint) -> None:
        self.answer(endpoint)


def _standin(tmp_path: Path) -> Place:
    def answer(endpoint: Endpoint) -> int:
        return int(str(engine_harness.post(endpoint)["version"]))

    broken = engine_harness.spec(behave="crash")
    return Place(engine_harness.engine(tmp_path / "services"), engine_harness.spec, broken, answer)


def _server(tmp_path: Path) -> Place:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    kind = onnx.TensorProto.INT64
    tensor = TensorSpec("x", Datatype.INT64, ("batch", 1)), TensorSpec("y", Datatype.INT64, ("batch", 1))
    signature = Signature(tensor[:1], tensor[1:])

    def spec(version: int) -> ReplicaSpec:
        add = onnx.helper.make_node("Add", ["x", "version"], ["y"])
        values = [onnx.helper.make_tensor_value_info(name, kind, ["batch", 1]) for name in "xy"]
        constant = onnx.helper.make_tensor("version", kind, [1], [version])
        graph = onnx.helper.make_graph([add], "add", values[:1], values[1:], [constant])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
        directory = tmp_path / str(version)
        directory.mkdir(exist_ok=True)
        onnx.save(model, directory / "model.onnx")
        artifact = LocalArtifact(str(directory), "model.onnx", Target("onnx"), Precision.FP32, signature)
        return ReplicaSpec("add", (ServedModel("add", version, artifact, "onnxruntime"),), drain_timeout_s=5.0)

    def answer(endpoint: Endpoint) -> int:
        with Client(endpoint.url) as client:
            return int(client.infer("add", {"x": np.zeros((1, 1), np.int64)})["y"][0, 0])

    missing = LocalArtifact(str(tmp_path), "missing.onnx", Target("onnx"), Precision.FP32, signature)
    broken = ReplicaSpec("add", (ServedModel("add", 9, missing, "onnxruntime"),))
    return Place(ProcessEngine(tmp_path / "services"), spec, broken, answer)


@pytest.fixture(params=[_standin, _server], ids=["process-standin", "process-server"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place: Place = request.param(tmp_path)
    yield place
    for status in place.engine.services():
        place.engine.stop(status.name)
    assert engine_harness.processes_of(tmp_path) == []


def test_a_service_from_start_to_stop(place: Place) -> None:
    engine = place.engine
    probed: list[Endpoint] = []

    def probe(endpoint: Endpoint) -> None:
        assert place.answer(endpoint) == 1
        probed.append(endpoint)

    endpoint = engine.start("svc", place.spec(1), 1, probe)
    assert probed == [endpoint]
    status = engine.status("svc")
    assert (status.name, status.state, status.endpoint) == ("svc", ServiceState.READY, endpoint)
    assert [(r.index, r.state, r.restarts) for r in engine.replicas("svc")] == [(0, ReplicaState.READY, 0)]
    assert engine.services() == [status]
    assert engine.directory("svc").is_dir()
    assert list(engine.logs("svc")) != []

    engine.scale("svc", 2)
    assert [r.state for r in engine.replicas("svc")] == [ReplicaState.READY] * 2
    engine.roll("svc", place.spec(2), 1, place.probe)
    assert [r.state for r in engine.replicas("svc")] == [ReplicaState.READY]
    assert engine.status("svc").endpoint == endpoint
    assert place.answer(endpoint) == 2

    assert engine.stop("svc") is True
    assert engine.stop("svc") is False
    assert engine.services() == []
    assert not engine.directory("svc").exists()


def test_a_spec_that_does_not_start_is_said_and_leaves_nothing(place: Place) -> None:
    with pytest.raises(BackendFailed) as caught:
        place.engine.start("svc", place.broken, 1, place.probe)
    assert "log lines" in caught.value.why
    assert place.engine.services() == []


def test_a_probe_that_fails_is_said_and_leaves_nothing(place: Place) -> None:
    def refuse(endpoint: Endpoint) -> None:
        raise ValueError("these are not the outputs")

    with pytest.raises(BackendFailed) as caught:
        place.engine.start("svc", place.spec(1), 1, refuse)
    assert "these are not the outputs" in caught.value.why
    assert place.engine.services() == []


def test_a_broken_roll_keeps_the_old_spec_serving(place: Place) -> None:
    endpoint = place.engine.start("svc", place.spec(1), 1, place.probe)
    before = place.engine.replicas("svc")
    with pytest.raises(BackendFailed):
        place.engine.roll("svc", place.broken, probe=place.probe)
    assert place.engine.replicas("svc") == before
    assert place.answer(endpoint) == 1


def test_a_taken_name_is_a_conflict(place: Place) -> None:
    endpoint = place.engine.start("svc", place.spec(1), 1, place.probe)
    with pytest.raises(Conflict):
        place.engine.start("svc", place.spec(2), 1, place.probe)
    assert place.answer(endpoint) == 1


def test_unknown_names_are_not_found(place: Place) -> None:
    engine = place.engine
    for ask in (engine.status, engine.state, engine.replicas, engine.logs):
        with pytest.raises(NotFound):
            ask("svc")
    with pytest.raises(NotFound):
        engine.scale("svc", 2)
    with pytest.raises(NotFound):
        engine.roll("svc", place.spec(1))


def test_bad_arguments_are_invalid_input(place: Place) -> None:
    with pytest.raises(InvalidInput):
        place.engine.start("../elsewhere", place.spec(1), 1)
    with pytest.raises(InvalidInput):
        place.engine.start("svc", place.spec(1), 0)
    place.engine.start("svc", place.spec(1), 1, place.probe)
    with pytest.raises(InvalidInput):
        place.engine.scale("svc", 0)
    with pytest.raises(InvalidInput):
        place.engine.roll("svc", place.spec(2), 0)
