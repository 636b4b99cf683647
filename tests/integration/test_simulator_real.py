"""Calibration against a real server, and a forecast of it. Tolerances are ones that a busy machine cannot break."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import numpy as np
import pytest

import modelyard
from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.errors import BackendFailed
from modelyard.domain.latency import CurvePoint, Overhead, Path, ProtocolCost
from modelyard.domain.services import Endpoint
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import ModelRef
from modelyard.domain.workload import Arrival, Protocol, Workload
from modelyard.profile.curve import measure_contention, measure_curve
from modelyard.profile.overhead import measure_overhead
from modelyard.profile.plan import WarmUpRule
from modelyard.profile.process import ClientProcess, write_plan
from modelyard.profile.requests import encode
from modelyard.profile.samples import Samples
from modelyard.tune.simulator import Load, ModelTimes, SimulatedService, simulate
from modelyard.workflow.progress import Listener, silent
from modelyard.workflow.simulating import Simulating
from tests.serving_harness import replica, scripted

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
SLEEP_S = 0.02


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> LocalArtifact:
    import xgboost

    folder = tmp_path_factory.mktemp("trees")
    data = xgboost.DMatrix(X, np.arange(64) % 2)
    xgboost.train({"objective": "reg:squarederror", "max_depth": 2}, data, 2).save_model(folder / "m.ubj")
    signature = Signature(
        (TensorSpec("x", Datatype.FP32, ("batch", 4)),), (TensorSpec("value", Datatype.FP32, ("batch", 1)),)
    )
    return LocalArtifact(str(folder), "m.ubj", Target("xgboost"), Precision.FP32, signature)


def test_a_curve_keeps_the_spread_of_its_runs_and_how_slow_they_are_after_a_pause(trees: LocalArtifact) -> None:
    curve = measure_curve(trees, "xgboost", {"x": X}, batches=(1, 8), point_budget_s=0.03, rested=True)
    for point in curve.points:
        assert 1 < len(point.walls_s) <= 129
        assert list(point.walls_s) == sorted(point.walls_s)
        assert point.walls_s[0] <= point.wall_s <= point.walls_s[-1]
        assert point.rested_s is not None
        assert point.rested_s > 0
    assert ModelTimes.of(curve, 1, 1, 1).run(4).wall_s > 0


def test_copies_of_a_model_are_measured_together(trees: LocalArtifact) -> None:
    points = measure_contention(trees, "xgboost", {"x": X}, copies=2, batches=(1, 8), point_budget_s=0.02)
    assert [(p.copies, p.threads, p.batch) for p in points] == [(2, 1, 1), (2, 1, 8)]
    assert all(p.wall_s > 0 for p in points)


def test_copies_that_do_not_load_are_an_error(trees: LocalArtifact) -> None:
    with pytest.raises(BackendFailed, match="together"):
        measure_contention(replace(trees, entry="gone.ubj"), "xgboost", {"x": X}, batches=(1,))


def test_the_overhead_of_the_real_server_is_calibrated_from_its_clocks() -> None:
    overhead = measure_overhead([Protocol.HTTP_BINARY], block_s=0.1, blocks=1)
    path = overhead.path(Protocol.HTTP_BINARY)
    every = [getattr(costs, name) for costs in (path.server, path.client) for name in costs.__slots__]
    every += [path.hop_s, path.long_hop_s, overhead.handover_s, overhead.child_s]
    assert all(math.isfinite(value) and value >= 0 for value in every)
    assert 0 < path.before <= 1
    assert 0 < path.short_idle_s < path.long_idle_s
    # a server of Python spends more than a microsecond on a request, and so does its client
    assert path.server.of(0, 0) + path.server.batch_s + path.server.wake_s > 1e-6
    assert path.client.of(0, 0) + path.client.wake_s > 1e-6


def measured_rps(directory: File, port: int, concurrency: int) -> float:
    """Requests per second of a closed loop on the scripted model."""
    load = Workload(Arrival.CLOSED, concurrency=concurrency, requests=10**6, duration_s=1.0)
    payload = encode({"x": X[:1]}, load.protocol, model="m", version=1, host="h")
    plan = write_plan(
        directory / f"c{concurrency}", Endpoint("127.0.0.1", port), load, [payload], warm_up=WarmUpRule(max_s=0.3)
    )
    with ClientProcess(plan) as client:
        client.warm_up()
        done = client.run_block(0)
    samples = Samples.load(File(done.samples))
    return len(samples) / float(samples.completed_s.max())


@pytest.mark.parametrize(("most", "concurrency"), [(1, 4), (8, 24)])
def test_batches_form_in_the_simulation_as_they_do_in_the_server(tmp_path: File, most: int, concurrency: int) -> None:
    """A model that sleeps takes its time whatever else runs here; batching alone makes the factor of up to eight.

    The costs are made up, but there must be some: of requests that are all sent at once the first runs alone. Fewer in
    flight than a batch holds would be no test: whether they fall into one batch or two is chance, here and there.
    """
    costs = ProtocolCost(request_s=2e-5)
    overhead = Overhead({Protocol.HTTP_BINARY: Path(costs, costs, hop_s=2e-5)}, handover_s=2e-5)
    times = ModelTimes([CurvePoint(b, 1, SLEEP_S, 1e-4, 10) for b in (1, 8)])
    load = Load(None, concurrency, 400, connections=concurrency)
    expected = simulate(SimulatedService(times, Batching(most)), load, overhead=overhead)
    with replica(tmp_path, scripted("sleep", seconds=SLEEP_S, batch=most)) as running:
        seen = [measured_rps(tmp_path / str(k), running.http_port, concurrency) for k in range(2)]
    assert statistics.mean(seen) == pytest.approx(len(expected.ok) / expected.seconds, rel=0.3)


@pytest.fixture
def yard(tmp_path: File) -> Iterator[modelyard.Yard]:
    with modelyard.open(modelyard.Settings.read({}, home=tmp_path / "home")) as opened:
        yield opened


def boosted() -> Any:
    import xgboost

    return xgboost.XGBClassifier(n_estimators=5, max_depth=2).fit(X, (X[:, 0] > 0).astype(np.int64))


class Calibrated(Simulating):
    """The calibration itself has a test of its own."""

    def overhead(self, protocols: Sequence[Protocol], listener: Listener) -> Overhead:
        return Overhead.none()


def test_a_version_has_a_simulator_whose_measurements_are_kept(yard: modelyard.Yard) -> None:
    data = modelyard.Dataset(X, (X[:, 0] > 0).astype(np.int64))
    ref = yard.register_model(boosted(), "boosted", inputs=X[:8], dataset=data, task="classification").version.ref
    version = yard.hub.versions.get(ModelRef.parse(ref))
    artifacts = yard.hub.artifacts.list(ModelRef(version.model, version.number), servable_only=True)
    simulating, protocols = Calibrated(yard.profiling), [Protocol.HTTP_BINARY]
    simulator = simulating.simulator(version, artifacts, protocols, silent, threads=(1,))
    (artifact,) = artifacts
    configuration = Configuration(
        artifact.id, artifact.target, "xgboost", artifact.precision, batching=Batching(8), replicas=2
    )
    open_loop = Workload(Arrival.POISSON, rate_rps=100.0, requests=300)
    found = simulator.predict(configuration, open_loop, requests=300)
    assert found.requests == 300
    assert 0 < found.p50_ms <= found.p95_ms <= found.p99_ms
    told: list[str] = []
    again = simulating.simulator(version, artifacts, protocols, lambda p: told.append(p.message), threads=(1,))
    assert told == []
    assert again.predict(configuration, open_loop, requests=300) == found
