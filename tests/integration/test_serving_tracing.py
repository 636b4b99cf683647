"""Stages and traces of a real replica."""

from __future__ import annotations

import json
from pathlib import Path

from modelyard.domain.services import Tracing
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
