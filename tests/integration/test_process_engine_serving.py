"""The process engine with the real server: what a user runs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from modelyard.client import NO_RETRIES, Client
from modelyard.dispatch.engines.process import ProcessEngine
from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.errors import BackendFailed, ModelyardError, NotFound
from modelyard.domain.services import Endpoint, ReplicaSpec, ReplicaState, ServedModel, ServiceState
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from tests.engine_harness import eventually, processes_of

SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, ("batch", 3)),), (TensorSpec("y", Datatype.FP32, ("batch", 3)),))
X = np.array([[1.0, 2.0, 3.0]], np.float32)


def spec(directory: Path, factor: float, *, entry: str = "model.onnx") -> ReplicaSpec:
    """A real model, `y = factor * x`."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scale",
        [helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", kind, ["batch", 3])],
        [helper.make_tensor("factor", kind, [1], [factor])],
    )
    where = directory / f"times-{factor:g}"
    where.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), where / "model.onnx")
    artifact = LocalArtifact(str(where), entry, Target("onnx"), Precision.FP32, SIGNATURE)
    return ReplicaSpec("scale", (ServedModel("scale", 1, artifact, "onnxruntime"),), drain_timeout_s=10.0)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[ProcessEngine]:
    yard = ProcessEngine(tmp_path / "services")
    yield yard
    for status in yard.services():
        yard.stop(status.name)
    assert processes_of(tmp_path) == []


def probe(endpoint: Endpoint) -> None:
    with Client(endpoint.url) as client:
        assert client.infer("scale", {"x": X})["y"].shape == (1, 3)


class Load:
    """What callers see who open a connection for each request: answers by factor, and errors."""

    def __init__(self) -> None:
        self.factors: list[float] = []
        self.errors: list[ModelyardError] = []


@contextmanager
def load(endpoint: Endpoint, threads: int = 3) -> Iterator[Load]:
    seen, over = Load(), threading.Event()

    def call() -> None:
        while not over.is_set():
            try:
                with Client(endpoint.url, timeout_s=10.0, retries=NO_RETRIES) as client:
                    seen.factors.append(float(client.infer("scale", {"x": X})["y"][0, 0]))
            except ModelyardError as error:
                seen.errors.append(error)

    callers = [threading.Thread(target=call) for _ in range(threads)]
    for caller in callers:
        caller.start()
    try:
        yield seen
    finally:
        over.set()
        for caller in callers:
            caller.join()


def test_a_real_service_answers_on_every_replica(yard: ProcessEngine, tmp_path: Path) -> None:
    endpoint = yard.start("scale", spec(tmp_path, 2.0), 2, probe)
    for binary in (True, False):
        with Client(endpoint.url) as client:
            assert client.infer("scale", {"x": X}, binary=binary)["y"].tolist() == [[2.0, 4.0, 6.0]]
    with Client(endpoint.url) as client:
        found = client.metadata("scale").signature
    assert [str(t) for t in (*found.inputs, *found.outputs)] == [
        str(t) for t in (*SIGNATURE.inputs, *SIGNATURE.outputs)
    ]
    with Client(endpoint.url) as client, pytest.raises(NotFound):
        client.infer("other", {"x": X})
    assert not any("writes no heartbeat" in line for line in yard.logs("scale"))


def test_grpc_shares_its_port_too(yard: ProcessEngine, tmp_path: Path) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    endpoint = yard.start("scale", spec(tmp_path, 2.0), 2, probe)
    tensor = grpc.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X)
    for _ in range(4):
        with grpc.InferenceServerClient(endpoint.grpc_address) as client:
            assert client.infer("scale", [tensor]).as_numpy("y").tolist() == [[2.0, 4.0, 6.0]]


def test_rolling_under_load_loses_no_request(yard: ProcessEngine, tmp_path: Path) -> None:
    endpoint = yard.start("scale", spec(tmp_path, 2.0), 2, probe)
    with load(endpoint) as seen:
        eventually(lambda: len(seen.factors) > 20, "load")
        yard.roll("scale", spec(tmp_path, 5.0), probe=probe)
        rolled_at = len(seen.factors)
        eventually(lambda: len(seen.factors) > rolled_at + 20, "load on the new spec")
    assert seen.errors == []
    assert set(seen.factors) == {2.0, 5.0}
    assert set(seen.factors[rolled_at + 3 :]) == {5.0}  # 3 callers may hold an answer of before


def test_scaling_down_under_load_loses_no_request(yard: ProcessEngine, tmp_path: Path) -> None:
    endpoint = yard.start("scale", spec(tmp_path, 2.0), 2, probe)
    with load(endpoint) as seen:
        eventually(lambda: len(seen.factors) > 20, "load")
        yard.scale("scale", 1)
        scaled_at = len(seen.factors)
        eventually(lambda: len(seen.factors) > scaled_at + 20, "load on the one left")
    assert seen.errors == []


def test_a_model_that_does_not_load_fails_the_start_with_the_servers_words(yard: ProcessEngine, tmp_path: Path) -> None:
    with pytest.raises(BackendFailed, match="exited with code") as caught:
        yard.start("scale", spec(tmp_path, 2.0, entry="missing.onnx"), 1, probe)
    assert "missing.onnx" in caught.value.why
    assert yard.services() == []


def test_a_stopped_real_replica_is_noticed_by_its_heartbeat(tmp_path: Path) -> None:
    from modelyard.dispatch.engines.state import RestartPolicy

    yard = ProcessEngine(tmp_path / "services", policy=RestartPolicy(hang_timeout_s=4.0, initial_s=0.1))
    try:
        yard.start("scale", spec(tmp_path, 2.0), 1, probe)
        [before] = yard.replicas("scale")
        assert before.pid
        os.kill(before.pid, signal.SIGSTOP)

        def replaced() -> bool:
            [now] = yard.replicas("scale")
            return now.state is ReplicaState.READY and now.pid != before.pid

        eventually(replaced, "a replacement")
        assert yard.state("scale") is ServiceState.READY
    finally:
        yard.stop("scale")
