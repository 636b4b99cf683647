"""The load client over gRPC against a real server of the Open Inference Protocol's service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from modelyard.domain.measurement import Validity
from modelyard.domain.services import Endpoint
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile import MeasuredService, Profiler, Rules, Samples, WarmUpRule
from tests.builders import configuration

PAYLOADS = [{"x": np.full((1, 4), value, np.float32)} for value in range(3)]


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Checks each request, refuses every tenth when told to, hangs on request `hang_on`."""

    def __init__(self) -> None:
        self.refuse = False
        self.seen: set[float] = set()
        self.count = 0
        self.hang_on = 0
        self.released = threading.Event()

    def ModelInfer(self, request, context):  # noqa: N802  the stub's name
        self.count += 1
        value = np.frombuffer(request.raw_input_contents[0], np.float32)
        assert (request.model_name, request.model_version) == ("digits", "1")
        assert value.shape == tuple(request.inputs[0].shape[1:])
        self.seen.add(float(value[0]))
        if self.refuse and self.count % 10 == 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full")
        if self.count == self.hang_on:
            self.released.wait(20)
        return service_pb2.ModelInferResponse(model_name="digits")


@pytest.fixture
def running() -> Iterator[tuple[Service, MeasuredService]]:
    servicer = Service()
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, MeasuredService(Endpoint("127.0.0.1", 1, port), "digits", 1, configuration(), list)
    servicer.released.set()
    server.stop(None).wait()


def profiler(tmp_path) -> Profiler:
    warm_up = WarmUpRule(max_blocks=2, max_s=0.5, block_requests=20, block_s=0.1)
    return Profiler(tmp_path, rules=Rules(max_retakes=0), warm_up=warm_up)


def test_closed_loop_over_grpc(running, tmp_path):
    servicer, target = running
    work = Workload(Arrival.CLOSED, concurrency=4, requests=200, blocks=2, protocol=Protocol.GRPC)
    found = profiler(tmp_path).measure(target, work, PAYLOADS).measurement
    assert found.indicators.error_fraction == 0
    assert found.indicators.requests == 400
    assert found.indicators.throughput_rps.value > 10
    assert servicer.seen == {0.0, 1.0, 2.0}


def test_open_loop_over_grpc_counts_refusals(running, tmp_path):
    servicer, target = running
    servicer.refuse = True
    work = Workload(Arrival.POISSON, rate_rps=200, requests=300, blocks=1, timeout_s=2, protocol=Protocol.GRPC)
    cell = profiler(tmp_path).measure(target, work, PAYLOADS)
    samples = Samples.load(cell.samples)
    assert set(np.unique(samples.status)) == {0, 1008}
    assert cell.measurement.indicators.error_fraction == pytest.approx(0.1, abs=0.01)
    assert (samples.completed_s > samples.sent_s).all()


def test_a_hanging_call_times_out(running, tmp_path):
    servicer, target = running
    servicer.hang_on = 1 + 2 * 20 + 30
    work = Workload(Arrival.CONSTANT, rate_rps=100, requests=60, blocks=1, timeout_s=0.4, protocol=Protocol.GRPC)
    cell = profiler(tmp_path).measure(target, work, PAYLOADS)
    samples = Samples.load(cell.samples)
    assert list(samples.status).count(-1) == 1
    assert samples.latencies_ms(0.4).max() >= 390
    assert cell.measurement.verdict.validity is not Validity.VALID


def test_a_message_larger_than_frames_and_windows_arrives_whole(running, tmp_path):
    """3 MB: above the 16 KiB of a frame and the 64 KiB of a fresh window; the server checks the shape."""
    servicer, target = running
    large = [{"x": np.full((1, 750_000), value, np.float32)} for value in (1, 2)]
    work = Workload(Arrival.CLOSED, concurrency=2, requests=20, blocks=1, protocol=Protocol.GRPC)
    found = profiler(tmp_path).measure(target, work, large).measurement
    assert found.indicators.error_fraction == 0
    assert servicer.seen == {1.0, 2.0}
