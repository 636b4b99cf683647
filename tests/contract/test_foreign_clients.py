"""Clients of other projects against a replica, each in their own environment (`make clients`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.serving_harness import replica, scripted

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"


@pytest.fixture(scope="module", params=["fast", "aio"])
def server(request, tmp_path_factory):
    if not PYTHON.exists() and not os.environ.get("CI"):
        pytest.skip("`make clients` installs the other projects' clients")
    with replica(tmp_path_factory.mktemp("foreign"), scripted("scale"), grpc_front=request.param) as running:
        yield running


def answers(script: str, *arguments: str) -> dict:
    command = [str(PYTHON), str(ROOT / "tests" / "clients" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_kserves_rest_and_grpc_clients(server):
    found = answers("kserve_client.py", server.address, f"127.0.0.1:{server.grpc_port}")
    for name in ("rest_live", "rest_ready", "rest_model_ready", "rpc_live", "rpc_ready", "rpc_model_ready"):
        assert found[name] is True, name
    want = {"model": "m", "id": "k1", "shape": [2, 4], "data": [3, -4, 6.5, 0, 8, 10, 12, 14]}
    for name in ("rest_binary", "rest_json", "rpc_infer"):
        assert found[name] == want, name
    assert found["rpc_concurrent"] == 1
    assert "404" in found["rest_unknown"]


def test_tf_servings_grpc_client(server):
    found = answers("tf_serving_client.py", f"127.0.0.1:{server.grpc_port}")
    assert found["predict"] == [[3.0, -4.0, 6.5, 0.0]]
    assert (found["version"], found["inputs"], found["states"]) == (1, ["x"], ["AVAILABLE"])
    assert found["unknown"] == ["NOT_FOUND", "Servable not found for request: Latest(nope)"]
