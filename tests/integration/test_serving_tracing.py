"""Stages and traces of a real replica."""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter

from modelyard.domain.services import Tracing
from modelyard.serving.observe.stages import STAGES
from tests.serving_harness import replica, scripted, until


def test_the_last_requests_are_told_with_their_stages(tmp_path: Path):
    with replica(tmp_path, scripted("sleep", seconds=0.02)) as running:
        for number in range(3):
            assert running.infer([1, 2, 3, 4], id=f"r{number}").status == 200
        told = running.get("/requests").json
    assert [r["id"] for r in told["recent"]] == ["r2", "r1", "r0"]
    assert {r["id"] for r in told["slowest"]} == {"r0", "r1", "r2"}
    for request in told["recent"]:
        assert request["infer_us"] >= 20_000
        assert request["total_us"] >= request["infer_us"]
        assert (request["model"], request["version"], request["batch_rows"]) == ("m", 1, 1)


def test_receiving_is_told_from_parsing(tmp_path: Path):
    item = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    body = json.dumps({"id": "slow", "inputs": [item]}).encode()
    request = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with replica(tmp_path, scripted("echo")) as running, running.connect() as client:
        client.sendall(request.replace(b"slow", b"warm"))
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(request[:-1])
        assert running.get("/v2/health/live").status == 200  # by then the replica has read what there was before
        began = perf_counter()
        assert running.get("/v2/health/live").status == 200
        waited_us = (perf_counter() - began) * 1e6
        client.sendall(request[-1:])
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        slow, warm = running.get("/requests").json["recent"]
        text = running.get("/metrics").body.decode()
    assert (slow["id"], warm["id"]) == ("slow", "warm")
    assert warm["receive_us"] == 0
    assert slow["receive_us"] >= waited_us
    for told in (slow, warm):
        assert min(told["parse_us"], told["encode_us"], told["send_us"]) > 0
        stages = [f"{stage}_us" for stage in STAGES]
        assert abs(sum(told[stage] for stage in stages) - told["total_us"]) <= 0.1 * len(stages)
    for stage in STAGES:
        assert f'modelyard_stage_seconds_total{{model="m",version="1",stage="{stage}"}}' in text


def test_a_large_answer_is_told_when_it_was_rendered_and_sent(tmp_path: Path):
    with replica(tmp_path, scripted("echo", batch=4096)) as running:
        assert running.infer([0.5] * 8192, [2048, 4], id="large").status == 200
        (told,) = until(lambda: running.get("/requests").json["recent"], "the answer has been sent")
        text = running.get("/metrics").body.decode()
    assert told["id"] == "large"
    assert min(told["encode_us"], told["send_us"]) > 0
    assert 'modelyard_request_duration_seconds_count{model="m",version="1"} 1' in text


def test_requests_that_the_model_failed_are_told_with_their_error(tmp_path: Path):
    with replica(tmp_path, scripted("poison")) as running:
        assert running.infer([666, 2, 3, 4], id="bad").status == 500
        (told,) = running.get("/requests").json["recent"]
    assert told["id"] == "bad"
    assert "poisoned" in told["error"]


def test_sampled_requests_are_in_the_trace_file(tmp_path: Path):
    file = tmp_path / "traces"
    with replica(tmp_path, scripted("echo"), tracing=Tracing(rate=0.5, file=str(file))) as running:
        for number in range(10):
            assert running.infer([1, 2, 3, 4], id=f"r{number}").status == 200
        roots = until(lambda: len(found := requests(file)) >= 5 and found, "the sampled half is written")
    assert len(roots) == 5
    assert len({r["trace_id"] for r in roots}) == 5
    assert all(r["name"] == "infer m" and r["end_unix_ns"] > r["start_unix_ns"] for r in roots)
    spans = [json.loads(line) for line in file.read_text().splitlines()]
    for root in roots:
        names = [s["name"] for s in spans if s.get("parent_span_id") == root["span_id"]]
        assert {"parse", "infer", "encode", "send"} <= set(names)


def test_what_waits_to_be_written_is_written_at_the_end(tmp_path: Path):
    file = tmp_path / "traces"
    with replica(tmp_path, scripted("echo"), tracing=Tracing(rate=1.0, file=str(file))) as running:
        for _ in range(200):
            assert running.infer([1, 2, 3, 4]).status == 200
        running.terminate()
        assert running.process.wait(30) == 0
    assert len(requests(file)) == 200


def test_a_trace_file_that_cannot_be_written_is_a_bad_spec(tmp_path: Path):
    tracing = Tracing(rate=1.0, file=str(tmp_path / "none" / "traces"))
    with replica(tmp_path / "r", scripted("echo"), wait=False, tracing=tracing) as running:
        assert running.process.wait(30) == 2
        assert "traces cannot be written" in running.log


def requests(file: Path) -> list[dict]:
    if not file.exists():
        return []
    spans = [json.loads(line) for line in file.read_text().splitlines()]
    return [s for s in spans if "parent_span_id" not in s]
