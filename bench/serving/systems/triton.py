"""Triton: the real server, as nvidia-pytriton bundles it. Its only bundled backend is the Python one."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.serving.systems.peers import ORT
from bench.serving.systems.ports import BINARY, GRPC, JSON, PEERS, Deployment, Launch, System, first_on_path

_TYPES = {"FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}
_CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {max_batch}
input [ {inputs} ]
output [ {outputs} ]
instance_group [ {{ kind: KIND_CPU, count: 1 }} ]
{batching}
"""


def _config(deployment: Deployment) -> str:
    """The model's config.pbtxt: one instance; the dynamic batcher with its default delay of 0, or none."""

    def tensors(specs: tuple[object, ...]) -> str:
        return ", ".join(
            f'{{ name: "{s.name}", data_type: {_TYPES[s.datatype]}, '  # type: ignore[attr-defined]
            f"dims: [ {', '.join(str(d) if isinstance(d, int) else '-1' for d in s.shape[1:])} ] }}"  # type: ignore[attr-defined]
            for s in specs
        )

    signature = deployment.model.signature
    return _CONFIG.format(
        name=deployment.model.name,
        max_batch=deployment.model.max_batch,
        inputs=tensors(signature.inputs),
        outputs=tensors(signature.outputs),
        batching="dynamic_batching { }" if deployment.max_batch > 1 else "",
    )


def _launch(deployment: Deployment) -> Launch:
    (site,) = (Path(deployment.python).parents[1] / "lib").glob("python3*/site-packages")
    bundled = site / "pytriton" / "tritonserver"
    backends = deployment.folder / "backends"
    shutil.copytree(bundled / "backends", backends)
    version = site.parent.name.removeprefix("python")
    shutil.copy(bundled / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    model = deployment.folder / "repository" / deployment.model.name
    (model / "1").mkdir(parents=True)
    shutil.copy(PEERS / "triton_model.py", model / "1" / "model.py")
    shutil.copy(PEERS / "ort_model.py", model / "1")
    (model / "config.pbtxt").write_text(_config(deployment))
    command = [str(bundled / "bin" / "tritonserver"), f"--model-repository={deployment.folder / 'repository'}"]
    command += [f"--backend-directory={backends}", f"--http-port={deployment.http_port}", "--allow-metrics=true"]
    command += [f"--grpc-port={deployment.grpc_port}", f"--metrics-port={deployment.spare_ports[0]}"]
    command += ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"]
    region = f"bench-triton-{deployment.http_port}-"
    command += [f"--backend-config=python,shm-region-prefix-name={region}"]
    # the backend's Python ignores PYTHONPATH: it finds its packages by the environment whose python is first on PATH
    env = deployment.env() | {"LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs")}
    env["PATH"] = first_on_path(Path(deployment.python).parent)
    return Launch([command], env, f"/v2/models/{deployment.model.name}/infer", shared_memory=region)


SYSTEMS = (
    System(
        "triton",
        "Triton, Python backend",
        _launch,
        ("nvidia-pytriton==0.7.0", ORT),
        ("nvidia-pytriton", "numpy"),
        protocols=(JSON, BINARY, GRPC),
        batches_ragged=True,
        shared_libpython=True,
    ),
)
