"""The data plane's behaviour, independent of protocol: which models are served, their metadata, state, statistics.

REST and gRPC only translate. Event-loop thread only.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any, Final

from modelyard.domain.errors import InvalidInput, NotFound, Unavailable
from modelyard.domain.services import ServedModel, Tracing
from modelyard.domain.tensors import TensorSpec
from modelyard.serving.models.target import Target
from modelyard.serving.observe.stages import Recorder
from modelyard.serving.observe.statistics import ModelStatistics, ReplicaStatistics
from modelyard.serving.observe.tracing import Tracer
from modelyard.serving.oip.plan import unknown_model
from modelyard.serving.scheduling.executor import Executor

EXTENSIONS: Final = ("binary_tensor_data", "statistics")
STATISTICS_SCHEMA: Final = 1


class DataPlane:
    """The served model versions of a replica."""

    def __init__(self, service: str, version: str, served: tuple[ServedModel, ...]) -> None:
        self.service = service
        self.version = version
        self.ready = False
        """Whether traffic is wanted: every model is loaded and warm, and the replica does not drain."""
        self.draining = False
        self.connections = 0
        self.bad_requests = 0
        """Requests refused before they reached a model: malformed, unknown model, wrong tensors."""
        self._served = {(m.name, m.version): m for m in served}
        self._models: dict[str, dict[int, Executor]] = {}
        self._load_s: dict[tuple[str, int], float] = {}
        self._started = perf_counter()
        self.triton_metrics = False
        """Whether `/metrics` shows Triton's names too."""
        self.tracer = Tracer(Tracing())
        self.recorder = Recorder(self.tracer)
        """The stages of the requests just served."""

    def add(self, executor: Executor, load_s: float = 0.0) -> None:
        """Serve a loaded and warm model version."""
        face = executor.interface
        executor.recorder = self.recorder
        self._models.setdefault(face.name, {})[face.version] = executor
        self._load_s[(face.name, face.version)] = load_s

    @property
    def executors(self) -> list[Executor]:
        """Every served version's executor."""
        return [e for versions in self._models.values() for e in versions.values()]

    def load_s(self, executor: Executor) -> float:
        """How long loading and warming this version took."""
        return self._load_s[(executor.interface.name, executor.interface.version)]

    def find(self, name: str, version: str = "") -> Executor:
        """The executor of a model version; without a version the latest. Raises NotFound, Unavailable, InvalidInput."""
        if version and not (version.isascii() and version.isdigit()):
            raise InvalidInput(
                f"failed to get model version from specified version string '{version}'",
                why="version should be an integer value > 0",
            )
        versions = self._models.get(name, {})
        number = int(version[:18]) if version else max(versions, default=0)
        found = versions.get(number)
        if found is not None:
            return found
        if any(n == name and (not version or v == number) for n, v in self._served):
            raise Unavailable(f"Request for unknown model: '{name}' is not at ready state", why="it is being loaded")
        raise unknown_model(name, version)

    def target(self, name: str, version: str = "", label: str = "") -> Target:
        """Where requests to a model, its version or its label go. Raises NotFound, Unavailable, InvalidInput."""
        if label:
            raise NotFound(f"model '{name}' has no label '{label}'")
        self.find(name, version)
        return Target(lambda: self.find(name, version))

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether a model version answers inferences. Raises NotFound for one that is not served at all."""
        try:
            self.find(name, version)
        except Unavailable:
            return False
        return self.ready

    def server_metadata(self) -> dict[str, Any]:
        """`GET /v2`."""
        return {"name": "modelyard", "version": self.version, "extensions": list(EXTENSIONS)}

    def model_metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """`GET /v2/models/M[/versions/V]`: platform, tensors (symbolic dimensions are -1), served versions."""
        executor = self.find(name, version)
        served = self._served.get((name, executor.interface.version))
        signature = executor.interface.signature
        return {
            "name": name,
            "versions": [str(v) for v in sorted(self._models[name])],
            "platform": f"{served.runtime}_{served.artifact.target.format}" if served else "",
            "inputs": [_tensor(spec) for spec in signature.inputs],
            "outputs": [_tensor(spec) for spec in signature.outputs],
        }

    def statistics(self) -> ReplicaStatistics:
        """A snapshot of every counter (`GET /stats`)."""
        return ReplicaStatistics(
            schema=STATISTICS_SCHEMA,
            service=self.service,
            pid=os.getpid(),
            uptime_s=perf_counter() - self._started,
            ready=self.ready,
            models=[_model_statistics(e) for e in self.executors],
        )

    def triton_statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Statistics in Triton's schema, for one model or all."""
        if not name:
            chosen = self.executors
        elif version:
            chosen = [self.find(name, version)]
        else:
            self.find(name)
            chosen = list(self._models[name].values())
        return {"model_stats": [_triton(e) for e in chosen]}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if isinstance(d, str) else d for d in spec.shape]
    return {"name": spec.name, "datatype": str(spec.datatype), "shape": shape}


def _model_statistics(executor: Executor) -> ModelStatistics:
    ledger = executor.ledger
    return ModelStatistics(
        model=executor.interface.name,
        version=executor.interface.version,
        held=executor.waiting + executor.running,
        failed=ledger.failed,
        refused={str(k): n for k, n in ledger.refused.items()},
        last_inference_unix_s=ledger.last_unix_s,
        batches=[ledger.by_rows[rows] for rows in sorted(ledger.by_rows)],
    )


def _pair(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": int(seconds * 1e9)}


def _triton(executor: Executor) -> dict[str, Any]:
    ledger = executor.ledger
    rows = [ledger.by_rows[n] for n in sorted(ledger.by_rows)]
    requests = sum(b.requests for b in rows)
    refused = sum(ledger.refused.values())

    def total(*fields: str) -> float:
        return sum(float(getattr(b, f)) for b in rows for f in fields)

    stages = ("queue_s", "batch_wait_s", "receive_s", "pre_s", "infer_s", "post_s", "encode_s")
    return {
        "name": executor.interface.name,
        "version": str(executor.interface.version),
        "last_inference": int(ledger.last_unix_s * 1000),
        "inference_count": sum(b.rows * b.batches for b in rows),
        "execution_count": sum(b.batches for b in rows),
        "inference_stats": {
            "success": _pair(requests, total(*stages)),
            "fail": _pair(ledger.failed + refused, 0.0),
            "queue": _pair(requests, total("queue_s", "batch_wait_s")),
            "compute_input": _pair(requests, total("receive_s", "pre_s")),
            "compute_infer": _pair(requests, total("infer_s")),
            "compute_output": _pair(requests, total("post_s", "encode_s")),
            "cache_hit": _pair(0, 0.0),
            "cache_miss": _pair(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": b.rows,
                "compute_input": _pair(b.batches, b.receive_s + b.pre_s),
                "compute_infer": _pair(b.batches, b.busy_s),
                "compute_output": _pair(b.batches, b.post_s + b.encode_s),
            }
            for b in rows
        ],
    }
