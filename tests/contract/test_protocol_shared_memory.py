"""System shared memory: tensors in regions that clients register, and regions that are refused."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
from tritonclient.utils import shared_memory as shm

from modelyard.domain.tensors import Signature
from modelyard.serving.oip.regions import refusal_of
from tests.serving_harness import replica, scripted, tensor, until

PAIR = Signature(
    (tensor("a", "FP32", "batch", 4), tensor("b", "INT64", "batch")),
    (tensor("p", "FP32", "batch", 4), tensor("q", "INT64", "batch")),
)
VECTOR = Signature((tensor("x", "FP32", "batch", 4),), (tensor("y", "FP32", "batch", 4),))
WORDS = Signature((tensor("x", "BYTES", "batch", 2),), (tensor("y", "BYTES", "batch", 2),))
BRAIN = Signature((tensor("x", "BF16", "batch", 2),), (tensor("y", "BF16", "batch", 2),))
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
MODULES = {"http": triton_http, "grpc": triton_grpc}


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def server(tmp_path_factory, gate):
    models = (
        scripted("echo", VECTOR, name="vector"),
        scripted("echo", PAIR, name="pair"),
        scripted("echo", WORDS, name="words"),
        scripted("echo", BRAIN, name="brain"),
        scripted("gate", VECTOR, name="gate", gate=gate),
    )
    gate.touch()
    with replica(tmp_path_factory.mktemp("shm"), *models) as running:
        yield running


@pytest.fixture(params=sorted(MODULES))
def client(request, server):
    address = server.address if request.param == "http" else f"127.0.0.1:{server.grpc_port}"
    with MODULES[request.param].InferenceServerClient(address) as made:
        made.module = MODULES[request.param]
        yield made
        made.unregister_system_shared_memory()


@pytest.fixture
def region():
    """Makes regions that are removed afterwards: name, key, handle."""
    made = []

    def make(size):
        key = f"/modelyard-test-{secrets.token_hex(8)}"
        made.append(shm.create_shared_memory_region(key[1:], key, size))
        return key[1:], key, made[-1]

    yield make
    for handle in made:
        shm.destroy_shared_memory_region(handle)


def at(client, name, shape, datatype, region, size, offset=0):
    item = client.module.InferInput(name, list(shape), datatype)
    item.set_shared_memory(region, size, offset)
    return item


def to(client, name, region, size, offset=0):
    item = client.module.InferRequestedOutput(name)
    item.set_shared_memory(region, size, offset)
    return item


def parameters(result, name):
    output = result.get_output(name)
    if isinstance(output, dict):
        return output["parameters"]
    return {k: p.string_param or p.int64_param for k, p in output.parameters.items()}


def test_inputs_and_outputs_in_one_region(client, region):
    name, key, handle = region(256)
    shm.set_shared_memory_region(handle, [ROWS], offset=16)
    client.register_system_shared_memory(name, key, 240, offset=16)
    result = client.infer(
        "vector", [at(client, "x", (2, 4), "FP32", name, 32)], outputs=[to(client, "y", name, 64, 128)], request_id="r"
    )
    np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, (2, 4), 16 + 128), ROWS)
    shown = parameters(result, "y")
    assert (shown["shared_memory_region"], shown["shared_memory_byte_size"]) == (name, 32)


def test_shared_memory_beside_tensors_in_the_message(client, region):
    name, key, handle = region(64)
    shm.set_shared_memory_region(handle, [ROWS])
    client.register_system_shared_memory(name, key, 64)
    b = client.module.InferInput("b", [2], "INT64")
    b.set_data_from_numpy(np.array([2**62, -1]))
    outputs = [client.module.InferRequestedOutput("q"), to(client, "p", name, 32, 32)]
    for inputs in ([b, at(client, "a", (2, 4), "FP32", name, 32)], [at(client, "a", (2, 4), "FP32", name, 32), b]):
        result = client.infer("pair", inputs, outputs=outputs)
        assert result.as_numpy("q").tolist() == [2**62, -1]
        np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, (2, 4), 32), ROWS)


def test_strings_and_bf16_travel_in_shared_memory(client, region):
    name, key, handle = region(256)
    words = np.array([[b"", b"longer text"], ["é".encode(), b"\x00\xff"]], object)
    packed = serialize_byte_tensor(words)
    size = len(packed.item())
    shm.set_shared_memory_region(handle, [packed])
    client.register_system_shared_memory(name, key, 256)
    client.infer("words", [at(client, "x", (2, 2), "BYTES", name, size)], outputs=[to(client, "y", name, 100, 100)])
    assert shm.get_contents_as_numpy(handle, np.object_, (2, 2), 100).tolist() == words.tolist()
    bits = np.array([[0x3F80, 0xC000], [0x7F80, 0x0001]], np.uint16)
    shm.set_shared_memory_region(handle, [bits])
    client.infer("brain", [at(client, "x", (2, 2), "BF16", name, 8)], outputs=[to(client, "y", name, 8, 64)])
    assert shm.get_contents_as_numpy(handle, np.uint16, (2, 2), 64).tolist() == bits.tolist()


def test_status_and_unregistering(client, region):
    name, key, _ = region(64)
    client.register_system_shared_memory(name, key, 32, offset=8)
    status = client.get_system_shared_memory_status()
    if client.module is triton_http:
        assert status == [{"name": name, "key": key, "offset": 8, "byte_size": 32}]
    else:
        assert (status.regions[name].key, status.regions[name].offset, status.regions[name].byte_size) == (key, 8, 32)
    with pytest.raises(InferenceServerException, match="already in manager"):
        client.register_system_shared_memory(name, key, 32)
    client.unregister_system_shared_memory(name)
    client.unregister_system_shared_memory(name)
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region"):
        client.get_system_shared_memory_status(name)
    with pytest.raises(InferenceServerException, match="Unable to find shared memory region"):
        client.infer("vector", [at(client, "x", (2, 4), "FP32", name, 32)])


@pytest.mark.parametrize(
    ("size", "offset", "text"),
    [(32, 40, "Invalid offset"), (2**40, 0, "Invalid offset"), (31, 0, "Expected 32, got 31"), (33, 0, "got 33")],
)
def test_places_outside_a_region_or_of_the_wrong_size(client, region, size, offset, text):
    name, key, _ = region(64)
    client.register_system_shared_memory(name, key, 64)
    with pytest.raises(InferenceServerException, match=text):
        client.infer("vector", [at(client, "x", (2, 4), "FP32", name, size, offset)])


def test_a_tensor_beyond_the_limit_of_bodies_is_refused(tmp_path, region):
    name, key, _ = region(8192)
    with (
        replica(tmp_path, scripted("echo"), max_body_bytes=4096) as server,
        triton_http.InferenceServerClient(server.address) as client,
    ):
        client.module = triton_http
        client.register_system_shared_memory(name, key, 8192)
        with pytest.raises(InferenceServerException, match="exceeds the limit of 4096"):
            client.infer("m", [at(client, "x", (257, 4), "FP32", name, 4112)])
        client.infer("m", [at(client, "x", (256, 4), "FP32", name, 4096)])


def test_an_output_that_does_not_fit_its_place_is_an_error_and_writes_nothing(client, region):
    name, key, handle = region(64)
    shm.set_shared_memory_region(handle, [np.full(16, 7, np.float32)])
    client.register_system_shared_memory(name, key, 64)
    item = client.module.InferInput("x", [2, 4], "FP32")
    item.set_data_from_numpy(ROWS)
    with pytest.raises(InferenceServerException, match="should be at least 32 bytes to hold the results"):
        client.infer("vector", [item], outputs=[to(client, "y", name, 31)])
    assert (shm.get_contents_as_numpy(handle, np.float32, (16,)) == 7).all()


def test_a_region_cut_short_by_its_client_is_an_error_of_the_request(client, server, region):
    name, key, _ = region(8192)
    client.register_system_shared_memory(name, key, 8192)
    os.truncate(f"/dev/shm{key}", 4096)
    with pytest.raises(InferenceServerException, match="smaller than it was registered"):
        client.infer("vector", [at(client, "x", (2, 4), "FP32", name, 32, 8000)])
    assert server.process.poll() is None
    assert server.get("/v2/health/ready").status == 200


def test_a_region_unregistered_while_a_request_runs_is_still_written_and_then_let_go(server, region, gate):
    name, key, handle = region(64)
    shm.set_shared_memory_region(handle, [ROWS])
    with triton_http.InferenceServerClient(server.address, concurrency=2) as client:
        client.module = triton_http
        client.register_system_shared_memory(name, key, 64)
        gate.unlink()
        pending = client.async_infer(
            "gate", [at(client, "x", (2, 4), "FP32", name, 32)], outputs=[to(client, "y", name, 32, 32)]
        )
        until(lambda: server.held("gate") == 1, "the request runs")
        client.unregister_system_shared_memory(name)
        gate.touch()
        pending.get_result()
    np.testing.assert_array_equal(shm.get_contents_as_numpy(handle, np.float32, (2, 4), 32), ROWS)
    until(lambda: not holds(server, key), "the descriptor is closed")


def holds(server, key):
    folder = Path(f"/proc/{server.process.pid}/fd")
    for entry in folder.iterdir():
        try:
            if entry.readlink().name.startswith(key[1:]):
                return True
        except FileNotFoundError:
            continue
    return False


@pytest.mark.parametrize("key", ["", "/", "..", "/../etc/passwd", "a/b", "/a/../b", "x\x00y", "sem.x", "k" * 300, "é"])
def test_names_that_are_no_shared_memory(server, key):
    body = json.dumps({"key": key, "byte_size": 8}).encode()
    answer = server.request("POST", "/v2/systemsharedmemory/region/r/register", body)
    assert answer.status == 400
    assert "is not a name of POSIX shared memory" in answer.json["error"]


@pytest.mark.parametrize(
    ("size", "offset"), [(0, 0), (-1, 0), (8, -1), (65, 0), (64, 1), (1, 2**63), (2**64, 0), (2**100, 0)]
)
def test_bounds_outside_the_object_are_refused(server, region, size, offset):
    name, key, _ = region(64)
    body = json.dumps({"key": key, "byte_size": size, "offset": offset}).encode()
    answer = server.request("POST", f"/v2/systemsharedmemory/region/{name}/register", body)
    assert answer.status == 400, answer.body


def register(server, key):
    body = json.dumps({"key": key, "byte_size": 8}).encode()
    return server.request("POST", "/v2/systemsharedmemory/region/r/register", body)


def test_what_others_can_open_or_own_is_refused_like_what_does_not_exist(server, region):
    missing = register(server, "/modelyard-test-missing").json["error"]
    _, key, _ = region(64)
    file = Path(f"/dev/shm{key}")
    file.chmod(0o640)
    assert register(server, key).json["error"] == missing.replace("/modelyard-test-missing", key)
    file.chmod(0o600)
    link = Path(f"/dev/shm/modelyard-test-{secrets.token_hex(8)}")
    link.symlink_to(file)
    try:
        assert register(server, link.name).status == 400
    finally:
        link.unlink()
    hard = Path(f"/dev/shm/modelyard-test-{secrets.token_hex(8)}")
    hard.hardlink_to(file)
    try:
        assert register(server, hard.name).status == 400
    finally:
        hard.unlink()
    if os.geteuid() == 0:
        os.chown(file, 65534, -1)
        assert register(server, key).json["error"] == missing.replace("/modelyard-test-missing", key)


def test_a_folder_or_pipe_is_no_region(server):
    pipe = Path(f"/dev/shm/modelyard-test-{secrets.token_hex(8)}")
    folder = Path(f"/dev/shm/modelyard-test-{secrets.token_hex(8)}")
    os.mkfifo(pipe, 0o600)
    folder.mkdir(0o700)
    try:
        assert [register(server, p.name).status for p in (pipe, folder)] == [400, 400]
    finally:
        pipe.unlink()
        folder.rmdir()


def test_cuda_shared_memory_says_that_there_is_none(client):
    with pytest.raises(InferenceServerException, match="failed to register CUDA shared memory region"):
        client.register_cuda_shared_memory("c", b"aGFuZGxl", 0, 8)
    status = client.get_cuda_shared_memory_status()
    assert not (status if isinstance(status, list) else status.regions)
    client.unregister_cuda_shared_memory()


def test_classification_and_shared_memory_exclude_each_other(server, region):
    name, key, _ = region(64)
    assert (
        server.request(
            "POST", f"/v2/systemsharedmemory/region/{name}/register", json.dumps({"key": key, "byte_size": 64}).encode()
        ).status
        == 200
    )
    wish = {"classification": 1, "shared_memory_region": name, "shared_memory_byte_size": 64}
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}],
        "outputs": [{"name": "y", "parameters": wish}],
    }
    answer = server.request("POST", "/v2/models/vector/infer", json.dumps(body).encode())
    assert answer.status == 400
    assert "both shared memory and classification" in answer.json["error"]


def test_only_clients_of_this_machine_may_register_by_default(tmp_path):
    assert refusal_of("127.0.0.1", None) == refusal_of("localhost", None) == refusal_of("::1", None) == ""
    assert refusal_of("0.0.0.0", True) == ""
    assert refusal_of("127.0.0.1", False)
    with replica(tmp_path, scripted("echo"), host="0.0.0.0") as server:
        answer = register(server, "/modelyard-test")
        assert answer.status == 501
        assert "beyond this machine" in answer.json["error"]
        assert "system_shared_memory" not in server.get("/v2").json["extensions"]
