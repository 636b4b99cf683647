"""Small valid domain values for tests; every argument that matters to a test is a parameter."""

from __future__ import annotations

from modelyard.domain.artifacts import Artifact, Precision, Standing, Target
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.measurement import (
    ClientHealth,
    Fingerprint,
    Indicators,
    Interval,
    Measurement,
    Validity,
    Verdict,
)
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.workload import Arrival, Workload

SIGNATURE = Signature(
    inputs=(TensorSpec("image", Datatype.FP32, ("batch", 1, 8, 8)),),
    outputs=(TensorSpec("logits", Datatype.FP32, ("batch", 10)),),
)
FINGERPRINT = Fingerprint("f" * 12, "test cpu", ("avx2",), 2, 2**34, "linux", "3.11", {"numpy": "2"})


def artifact(
    name: str = "a1",
    *,
    target: str = "onnx",
    precision: Precision = Precision.FP32,
    standing: Standing = Standing.PROVEN,
    signature: Signature = SIGNATURE,
) -> Artifact:
    return Artifact(
        id=name,
        model="digits",
        version=1,
        target=Target.parse(target),
        precision=precision,
        entry="model.onnx",
        files=(),
        signature=signature,
        standing=standing,
    )


def configuration(artifact: str = "a1", *, max_batch: int = 1, threads: int = 1, replicas: int = 1) -> Configuration:
    return Configuration(
        artifact=artifact,
        target=Target("onnx"),
        runtime="onnxruntime",
        precision=Precision.FP32,
        threads=threads,
        replicas=replicas,
        batching=Batching(max_size=max_batch),
    )


def measurement(
    name: str = "m1",
    *,
    config: Configuration | None = None,
    p99: tuple[float, float, float] | None = (5.0, 4.0, 6.0),
    rps: float = 200.0,
    cpu_cores: float = 0.5,
    cost: float = 1.0,
    errors: float = 0.0,
    validity: Validity = Validity.VALID,
    saturated: bool = False,
) -> Measurement:
    """A measurement whose p99 is (value, low, high) ms."""
    return Measurement(
        id=name,
        model="digits",
        version=1,
        configuration=config or configuration(),
        workload=Workload(Arrival.POISSON, rate_rps=rps),
        fingerprint=FINGERPRINT,
        indicators=Indicators(
            throughput_rps=Interval(rps),
            p50_ms=Interval(1.0),
            p95_ms=Interval(2.0),
            p99_ms=Interval(*p99) if p99 else None,
            p999_ms=None,
            memory_rss_bytes=10**8,
            cpu_cores=cpu_cores,
            core_s_per_request=cpu_cores / rps,
            cost_per_million=cost,
            cost_interval=Interval(cost, cost * 0.95, cost * 1.05),
            error_fraction=errors,
            requests=5000,
            rows_per_s=rps,
        ),
        verdict=Verdict(validity, saturated=saturated),
        client=ClientHealth(0.1, rps, rps, 0.2),
    )
