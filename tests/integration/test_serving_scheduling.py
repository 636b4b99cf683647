"""Scheduling over real sockets: deadlines, overload, cache, several models in one replica."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from modelyard.domain.configuration import QueuePolicy
from tests.serving_harness import replica, scripted, until


def executions(journal) -> list[int]:
    return [int(line) for line in journal.read_text().split()]


def test_nothing_whose_deadline_passes_behind_a_slow_execution_reaches_the_model(tmp_path):
    """T18: 5 ms deadlines behind a 50 ms queue."""
    journal = tmp_path / "journal"
    model = scripted("sleep", seconds=0.05, batch=4, journal=journal)
    with replica(tmp_path / "r", model) as server, ThreadPoolExecutor(24) as pool:
        warm = sum(executions(journal))
        statuses = []
        for _ in range(3):
            steady = [pool.submit(server.infer, [1, 2, 3, 4]) for _ in range(8)]
            until(lambda: server.held() >= 1, "the model is busy")
            hasty = [pool.submit(server.infer, [1, 2, 3, 4], parameters={"timeout": 5000}) for _ in range(12)]
            assert [answer.result().status for answer in steady] == [200] * 8
            statuses += [answer.result().status for answer in (*steady, *hasty)]
        assert set(statuses) <= {200, 429, 503}
        assert sum(executions(journal)) - warm == statuses.count(200)
        refused = next(m["refused"] for m in server.get("/stats").json["models"])
        assert refused["wait-too-long"] + refused["expired"] >= 1


def test_an_slo_refuses_what_cannot_keep_it_and_says_when_to_come_back(tmp_path):
    model = scripted("sleep", seconds=0.05, batch=1, queue=QueuePolicy(slo_ms=200))
    with replica(tmp_path / "r", model) as server, ThreadPoolExecutor(30) as pool:
        answers = [answer.result() for answer in [pool.submit(server.infer, [1, 2, 3, 4]) for _ in range(30)]]
        assert {answer.status for answer in answers} == {200, 429}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status == 429)
        until(lambda: server.held() == 0, "the queue is empty")
        assert server.infer([1, 2, 3, 4]).status == 200


def test_an_equal_request_is_answered_without_the_model_whatever_its_form(tmp_path):
    journal = tmp_path / "journal"
    model = replace(scripted("scale", journal=journal), cache_bytes=10_000)
    with replica(tmp_path / "r", model) as server:
        warm = len(executions(journal))
        first = server.infer([1, 2, 3, 4])
        again = server.infer([1, 2, 3, 4], id="other", parameters={"binary_data_output": False})
        assert first.json["outputs"] == again.json["outputs"]
        assert again.json["id"] == "other"
        server.infer([1, 2, 3, 5])
        assert len(executions(journal)) == warm + 2
        page = server.get("/metrics").body.decode()
        assert 'modelyard_cache_requests_total{model="m",version="1",result="hit"} 1' in page


def test_two_instances_and_a_second_model_share_the_replica(tmp_path):
    twice = replace(scripted("sleep", seconds=0.03, batch=1), instances=2)
    other = scripted("scale", name="n")
    with replica(tmp_path / "r", twice, other, max_running=2) as server, ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(server.infer, [1, 2, 3, 4]) for _ in range(8)]
        assert server.infer([1, 2, 3, 4], model="n").json["outputs"][0]["data"] == [2, 4, 6, 8]
        assert [answer.result().status for answer in slow] == [200] * 8
