"""The Python servers: FastAPI by hand, BentoML, LitServe, MLServer, KServe, Ray Serve, TorchServe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from bench.serving.systems.ports import BINARY, GRPC, JSON, PEERS, Deployment, JsonForm, Launch, System, first_on_path

ORT = "onnxruntime==1.31.1"
_TORCHSERVE_NEEDS = ("pyyaml==6.0.3", "psutil==7.2.2", "requests==2.34.2", "packaging==26.3")
"""Imported by TorchServe's workers, but not among its declared dependencies."""
_WEB = ("fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")


def _script(name: str, path: str, deployment: Deployment) -> Launch:
    infer = path.format(model=deployment.model.name)
    return Launch([[deployment.python, str(PEERS / name)]], deployment.env(), infer)


def _bentoml(deployment: Deployment) -> Launch:
    command = [str(Path(deployment.python).parent / "bentoml"), "serve", "bento_service:Bench"]
    command += ["--host", "127.0.0.1", "--port", str(deployment.http_port), "--working-dir", str(PEERS)]
    return Launch([command], {**deployment.env(), "BENTOML_HOME": str(deployment.folder / "bentoml")}, "/predict")


def _mlserver(deployment: Deployment) -> Launch:
    """In one process (`parallel_workers: 0`): with small models its workers cost more than they give."""
    settings = {
        "host": "127.0.0.1",
        "http_port": deployment.http_port,
        "grpc_port": deployment.grpc_port,
        "metrics_port": deployment.spare_ports[0],
        "parallel_workers": 0,
        "debug": False,
        "use_structured_logging": False,
        "logging_settings": None,
        "grpc_max_message_length": 64 * 1024 * 1024,
    }
    (deployment.folder / "settings.json").write_text(json.dumps(settings))
    model: dict[str, object] = {"name": deployment.model.name, "implementation": "mlserver_runtime.Bench"}
    if deployment.max_batch > 1:
        model |= {"max_batch_size": deployment.max_batch, "max_batch_time": 0.001}
    (deployment.folder / "model-settings.json").write_text(json.dumps(model))
    command = [str(Path(deployment.python).parent / "mlserver"), "start", str(deployment.folder)]
    return Launch([command], deployment.env(), f"/v2/models/{deployment.model.name}/infer")


def _torchserve(deployment: Deployment) -> Launch:
    """Java frontend, one worker; batches wait 1 ms at most instead of the default 100 ms."""
    if shutil.which("java") is None:
        raise FileNotFoundError("TorchServe needs Java 17 or newer, and there is no `java` here")
    tools = Path(deployment.python).parent
    store = deployment.folder / "store"
    store.mkdir()
    name = deployment.model.name
    archiver = [str(tools / "torch-model-archiver"), "--model-name", name, "--version", "1.0", "--handler"]
    archiver += [str(PEERS / "torchserve_handler.py"), "--export-path", str(store)]
    subprocess.run(archiver, check=True, capture_output=True, env={**os.environ, "PATH": first_on_path(tools)})
    worker = {"marName": f"{name}.mar", "minWorkers": 1, "maxWorkers": 1, "responseTimeout": 60}
    worker |= {"batchSize": deployment.max_batch, "maxBatchDelay": 1}
    addresses = zip(
        ("inference", "management", "metrics"), (deployment.http_port, *deployment.spare_ports[:2]), strict=True
    )
    lines = [f"{kind}_address=http://127.0.0.1:{port}" for kind, port in addresses]
    lines += [
        f"grpc_{kind}_port={port}"
        for kind, port in zip(("inference", "management"), deployment.spare_ports[2:4], strict=True)
    ]
    lines += [f"model_store={store}", f"load_models={name}.mar", "disable_token_authorization=true"]
    lines += ["max_request_size=67108864", "max_response_size=67108864", "disable_system_metrics=true"]
    lines += ["job_queue_size=1000"]  # its default of 100 refuses some of 128 connections
    lines += [f"initial_worker_port={deployment.spare_ports[4]}", f"vmargs=-Djava.io.tmpdir={deployment.scratch}"]
    lines += [f"models={json.dumps({name: {'1.0': worker}})}", "install_py_dep_per_model=false"]
    config = deployment.folder / "config.properties"
    config.write_text("\n".join(lines) + "\n")
    command = [str(tools / "torchserve"), "--start", "--foreground", "--ncs", "--ts-config", str(config)]
    logs = str(deployment.folder / "logs")
    env = deployment.env() | {"PATH": first_on_path(tools), "LOG_LOCATION": logs, "METRICS_LOCATION": logs}
    return Launch([command], env, f"/predictions/{name}")


SYSTEMS = (
    System(
        "fastapi",
        "FastAPI, by hand",
        lambda d: _script("fastapi_service.py", "/v2/models/{model}/infer", d),
        (*_WEB, ORT),
        ("fastapi", "uvicorn", "pydantic"),
        batches=False,
    ),
    System("bentoml", "BentoML", _bentoml, ("bentoml==1.4.39", ORT), ("bentoml",), form=JsonForm.FIELDS),
    System(
        "litserve",
        "LitServe",
        lambda d: _script("litserve_service.py", "/predict", d),
        ("litserve==0.2.19", ORT),
        ("litserve",),
        form=JsonForm.FIELDS,
    ),
    System("mlserver", "MLServer", _mlserver, ("mlserver==1.7.1", ORT), ("mlserver",), protocols=(JSON, BINARY, GRPC)),
    System(
        "kserve",
        "KServe model server",
        lambda d: _script("kserve_service.py", "/v2/models/{model}/infer", d),
        ("kserve==0.21.0", ORT),
        ("kserve",),
        protocols=(JSON, BINARY, GRPC),
        batches=False,
    ),
    System(
        "ray",
        "Ray Serve",
        lambda d: _script("ray_service.py", "/predict", d),
        ("ray[serve]==2.60.0", ORT),
        ("ray",),
        form=JsonForm.FIELDS,
    ),
    System(
        "torchserve",
        "TorchServe",
        _torchserve,
        ("torch==2.13.0", "torchserve==0.12.0", "torch-model-archiver==0.12.0", *_TORCHSERVE_NEEDS, ORT),
        ("torchserve", "torch"),
        form=JsonForm.FIELDS,
    ),
)
