"""A replica's life: start, refuse to start, drain, statistics, metrics."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from modelyard.domain.configuration import QueuePolicy
from modelyard.domain.versions import StepSpec
from tests.serving_harness import ROOT, replica, scripted, until


def test_readiness_waits_for_the_warm_up_and_liveness_does_not(tmp_path):
    gate = tmp_path / "gate"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with replica(tmp_path / "r", scripted("gate", gate=gate), wait=False, http_port=port) as server:
        server.http_port = port

        def status(path):
            try:
                return server.get(path).status
            except OSError:
                return None

        until(lambda: status("/v2/health/live") == 200, "live")
        assert status("/v2/health/ready") == 503
        assert status("/v2/models/m/ready") == 503
        assert server.infer([1, 2, 3, 4]).status == 503
        assert not server.files["ready"].exists()
        gate.touch()
        until(lambda: status("/v2/health/ready") == 200, "ready")
        ready = json.loads(until(server.files["ready"].read_bytes, "the ready file"))
        assert ready["pid"] == server.process.pid
        assert ready["http_port"] == port
        assert ready["grpc_port"] > 0


def test_no_garbage_collection_looks_at_what_models_brought(tmp_path):
    with replica(tmp_path / "r", scripted("tracked", objects=300_000)) as server:
        assert server.infer([0, 0, 0, 0]).json["outputs"][0]["data"][0] < 150_000


def test_warm_up_runs_one_row_and_a_full_batch(tmp_path):
    journal = tmp_path / "journal"
    with replica(tmp_path / "r", scripted("echo", batch=6, journal=journal)) as server:
        assert set(journal.read_text().split()) == {"1", "6"}
        assert server.get("/stats").json["models"][0]["batches"] == []


def test_a_port_in_use_is_one_clear_line_and_exit_code_5(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for spec in ({"http_port": port}, {"grpc_port": port}):
            with replica(tmp_path, scripted("echo"), wait=False, **spec) as server:
                assert server.process.wait(20) == 5
                errors = [line for line in map(json.loads, server.log.splitlines()) if line["level"] == "error"]
                assert len(errors) == 1
                assert str(port) in errors[0]["message"]


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_this_machines_is_one_clear_line_and_exit_code_2(tmp_path, host):
    with replica(tmp_path, scripted("echo"), wait=False, host=host) as server:
        assert server.process.wait(20) == 2
        (told,) = map(json.loads, server.log.splitlines())
        assert f"cannot listen on host '{host}'" in told["message"]
        assert "0.0.0.0" in told["message"]


def test_a_bad_spec_exits_2_and_names_the_field(tmp_path):
    with replica(tmp_path, scripted("echo"), wait=False) as server:
        server.process.kill()
        server.process.wait()
    import subprocess
    import sys

    file = tmp_path / "bad.json"
    for text, named in (('{"service": 3, "models": []}', "$.service"), ("{", "truncated"), (None, "bad.json")):
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "modelyard.serving", "--spec", str(file)], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert named in json.loads(done.stderr)["message"]


def test_a_model_that_does_not_load_ends_the_replica_with_its_reason(tmp_path):
    with replica(tmp_path, scripted("refuse"), wait=False) as server:
        assert server.process.wait(20) not in (0, 5)
        assert "the file is no model" in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_answers_what_is_in_flight_on_both_protocols_and_exits_0(tmp_path, number):
    gate = tmp_path / "gate"
    gate.touch()
    with replica(tmp_path / "r", scripted("gate", gate=gate, batch=1)) as server:
        gate.unlink()
        answers = []

        def rest():
            answers.append(server.infer([1, 2, 3, 4]).status)

        def rpc():
            with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
                item = triton_grpc.InferInput("x", [1, 4], "FP32")
                item.set_data_from_numpy(np.ones((1, 4), np.float32))
                answers.append(client.infer("m", [item]).as_numpy("y").shape)

        threads = [threading.Thread(target=t) for t in (rest, rest, rpc)]
        for thread in threads:
            thread.start()
        until(lambda: server.held() == 3, "three requests are held")
        idle = http.client.HTTPConnection("127.0.0.1", server.http_port)
        idle.request("GET", "/v2/health/ready")
        assert idle.getresponse().read() == b'{"ready":true}'
        server.process.send_signal(number)
        until(lambda: "draining" in server.log, "the drain begins")
        idle.request("GET", "/v2/health/ready")
        answer = idle.getresponse()
        assert answer.status == 503
        assert answer.headers["Connection"] == "close"
        answer.read()
        gate.touch()
        for thread in threads:
            thread.join(20)
        assert sorted(map(str, answers)) == ["(1, 4)", "200", "200"]
        assert server.process.wait(20) == 0
        assert not server.files["ready"].exists()


def test_no_request_fails_while_the_replica_drains_under_load(tmp_path):
    """Clients that honour `Connection: close` see no failure: what was accepted is answered."""
    with replica(tmp_path, scripted("sleep", seconds=0.002)) as server:
        failures: list[str] = []
        served = [0] * 8
        stop = threading.Event()

        def client(me):
            while not stop.is_set():
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
                    connection.connect()
                except ConnectionRefusedError:
                    return
                while not stop.is_set():
                    body = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
                    try:
                        connection.request("POST", "/v2/models/m/infer", body)
                        answer = connection.getresponse()
                        answer.read()
                    except (OSError, http.client.HTTPException) as error:
                        failures.append(repr(error))
                        return
                    if answer.status != 200:
                        failures.append(str(answer.status))
                    served[me] += 1
                    if answer.headers.get("Connection") == "close":
                        return

        threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: min(served) > 20, "every client is served")
        server.terminate()
        assert server.process.wait(20) == 0
        stop.set()
        for thread in threads:
            thread.join(20)
        assert failures == []


def test_a_drain_ends_after_its_timeout_even_if_a_model_hangs(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    with replica(tmp_path / "r", scripted("gate", gate=gate), drain_timeout_s=0.5) as server:
        gate.unlink()
        connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
        connection.request(
            "POST", "/v2/models/m/infer", '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
        )
        until(lambda: server.held() == 1, "the request is held")
        server.terminate()
        assert server.process.wait(20) == 0
        assert "timed out" in server.log


def test_a_replica_ends_on_a_signal_even_while_a_model_hangs_in_loading(tmp_path):
    model = scripted("echo", load_gate=tmp_path / "never", loading=tmp_path / "loading")
    with replica(tmp_path / "r", model, wait=False) as server:
        until(lambda: (tmp_path / "loading").exists(), "the model is being loaded")
        server.terminate()
        assert server.process.wait(20) == 0


def test_two_replicas_share_one_port_and_each_drains_alone(tmp_path):
    with replica(tmp_path / "a", scripted("echo"), reuse_port=True, grpc_port=None) as one:
        port = one.http_port
        with replica(tmp_path / "b", scripted("echo"), reuse_port=True, grpc_port=None, http_port=port) as two:
            seen = until(lambda: len({one.get("/stats").json["pid"] for _ in range(20)}) == 2 and "both", "both answer")
            assert seen == "both"
            one.terminate()
            assert one.process.wait(20) == 0
            assert {two.get("/stats").json["pid"] for _ in range(10)} == {two.process.pid}


def test_the_heartbeat_beats(tmp_path):
    with replica(tmp_path, scripted("echo")) as server:
        beat = server.files["beat"]
        first = beat.stat().st_mtime_ns
        until(lambda: beat.stat().st_mtime_ns > first, "the next beat")


def test_statistics_split_a_requests_time(tmp_path):
    with replica(tmp_path, scripted("sleep", seconds=0.02, batch=2)) as server:
        threads = [threading.Thread(target=server.infer, args=([1, 2, 3, 4],)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (model,) = server.get("/stats").json["models"]
        assert (model["model"], model["version"], model["held"], model["failed"]) == ("m", 1, 0, 0)
        assert sum(b["requests"] for b in model["batches"]) == 8
        assert sum(b["rows"] * b["batches"] for b in model["batches"]) == 8
        busy = sum(b["busy_s"] for b in model["batches"])
        assert busy >= 0.02 * sum(b["batches"] for b in model["batches"])
        assert sum(b["queue_s"] for b in model["batches"]) > 0.02  # the later ones waited for the slot
        assert all(b["infer_s"] >= b["busy_s"] for b in model["batches"])


def test_every_metric_is_documented_and_every_documented_metric_exists(tmp_path):
    documented = set(re.findall(r"^\| `(modelyard_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    with replica(tmp_path, scripted("echo")) as server:
        server.infer([1, 2, 3, 4])
        text = server.get("/metrics").body.decode()
    exposed = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    assert exposed == documented
    sampled = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"^(modelyard_\w+)", text, re.MULTILINE)
    }
    optional = {name for name in documented if re.search("cache|coalesced|shadow", name)}
    assert sampled == documented - optional


def test_the_metrics_page_is_prometheus_text(tmp_path):
    from prometheus_client.parser import text_string_to_metric_families

    with replica(tmp_path, scripted("echo")) as server:
        server.infer([1, 2, 3, 4])
        server.infer([1])
        page = server.get("/metrics")
    families = {f.name: f for f in text_string_to_metric_families(page.body.decode())}
    outcomes = {s.labels["outcome"]: s.value for s in families["modelyard_requests"].samples}
    assert outcomes["ok"] == 1
    buckets = [s.value for s in families["modelyard_request_duration_seconds"].samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 1
    assert families["modelyard_bad_requests"].samples[0].value == 1


def test_a_request_may_not_wait_longer_than_its_own_timeout(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    model = scripted("gate", gate=gate, batch=1, queue=QueuePolicy(max_wait_s=20), journal=tmp_path / "journal")
    with replica(tmp_path / "r", model) as server:
        gate.unlink()
        warm = len((tmp_path / "journal").read_text().split())
        first = threading.Thread(target=server.infer, args=([1, 2, 3, 4],))
        first.start()
        until(lambda: server.held() == 1, "the first request runs")
        answer = server.infer([1, 2, 3, 4], parameters={"timeout": 60_000})
        assert answer.status == 503
        assert answer.json["error"].startswith("Request timeout expired")
        gate.touch()
        first.join(20)
        until(lambda: server.held() == 0, "the queue is empty")
        assert len((tmp_path / "journal").read_text().split()) == warm + 1


def test_a_grpc_call_whose_deadline_passes_does_not_reach_the_model(tmp_path):
    gate, journal = tmp_path / "gate", tmp_path / "journal"
    gate.touch()
    with replica(tmp_path / "r", scripted("gate", gate=gate, batch=1, journal=journal)) as server:
        gate.unlink()
        warm = len(journal.read_text().split())
        first = threading.Thread(target=server.infer, args=([1, 2, 3, 4],))
        first.start()
        until(lambda: server.held() == 1, "the first request runs")
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            item = triton_grpc.InferInput("x", [1, 4], "FP32")
            item.set_data_from_numpy(np.ones((1, 4), np.float32))
            with pytest.raises(Exception, match="Deadline"):
                client.infer("m", [item], client_timeout=0.2)
        until(lambda: server.held() == 1, "the abandoned request is dropped")
        gate.touch()
        first.join(20)
        until(lambda: server.held() == 0, "the queue is empty")
        assert len(journal.read_text().split()) == warm + 1


def test_steps_run_around_the_model_and_show_in_metadata(tmp_path):
    from dataclasses import replace

    served = replace(scripted("echo"), postprocess=(StepSpec("softmax", {}),))
    with replica(tmp_path, served) as server:
        data = server.infer([0, 0, 0, 0]).json["outputs"][0]["data"]
        assert data == [0.25] * 4
        batches = server.get("/stats").json["models"][0]["batches"]
        assert sum(b["post_s"] for b in batches) > 0


def test_the_process_imports_no_database_and_no_command_line(tmp_path):
    import subprocess
    import sys

    unwanted = ("sqlalchemy", "typer", "torch", "onnxruntime", "modelyard.hub", "grpc", "pydantic")
    code = f"import sys, modelyard.serving.__main__; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(ROOT))
    assert done.stdout.strip() == "[]"
