"""Modelyard's server, started as engines start it, with everything on that is on by default."""

from __future__ import annotations

import sys
from functools import partial

import msgspec

from bench.serving.systems.ports import BINARY, GRPC, JSON, Deployment, Launch, System
from modelyard.domain.artifacts import LocalArtifact, Precision, Target
from modelyard.domain.configuration import Batching
from modelyard.domain.services import ReplicaSpec, ServedModel


def _launch(replicas: int, deployment: Deployment) -> Launch:
    model = deployment.model
    artifact = LocalArtifact(
        str(deployment.file.parent), deployment.file.name, Target("onnx"), Precision.FP32, model.signature
    )
    served = ServedModel(
        model.name,
        1,
        artifact,
        "onnxruntime",
        threads=deployment.threads,
        batching=Batching(deployment.max_batch, 0),
    )
    commands, ready = [], []
    for index in range(replicas):
        ready.append(deployment.folder / f"ready-{index}")
        spec = ReplicaSpec(
            "bench",
            (served,),
            http_port=deployment.http_port,
            grpc_port=deployment.grpc_port,
            reuse_port=replicas > 1,
            drain_timeout_s=2.0,
            ready_file=str(ready[-1]),
        )
        file = deployment.folder / f"spec-{index}.json"
        file.write_bytes(msgspec.json.encode(spec))
        commands.append([sys.executable, "-m", "modelyard.serving", "--log-level", "warning", "--spec", str(file)])
    return Launch(commands, {}, f"/v2/models/{model.name}/infer", tuple(ready))


def _system(name: str, title: str, replicas: int, packages: tuple[str, ...]) -> System:
    return System(
        name,
        title,
        partial(_launch, replicas),
        packages=packages,
        protocols=(JSON, BINARY, GRPC),
        batches_ragged=True,
        replicas=replicas,
    )


SYSTEMS = (
    _system("modelyard", "**Modelyard**", 1, ("numpy", "onnxruntime", "uvloop", "httptools", "msgspec", "pysimdjson")),
    _system("modelyard-2", "**Modelyard**, 2 replicas", 2, ()),
)
