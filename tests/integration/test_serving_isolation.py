"""A model that raises, hangs, dies or takes all memory hurts only itself (rows T11, T12 and T24 of the fault table)."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.faults.replicas import signalled
from bench.faults.result import Options
from modelyard.domain.configuration import QueuePolicy
from modelyard.domain.services import Isolation
from modelyard.domain.versions import StepSpec
from tests.serving_harness import RunningReplica, replica, scripted, until

RAISES, HANGS, DIES, HOARDS, PRINTS = 666, 667, 668, 669, 670
QUICK = QueuePolicy(max_wait_s=1.0)


def moody(name="m", **options):
    return scripted("moody", name=name, queue=QUICK, **options)


def children(server: RunningReplica) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(server.process.pid).children()
        if "modelyard.serving.instances" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE
    ]


def child_of(server: RunningReplica) -> psutil.Process:
    return until(lambda: children(server), "the model's process runs")[0]


def output(answer):
    assert answer.status == 200, answer.body
    return answer.json["outputs"][0]["data"]


def works(server: RunningReplica, model="m") -> bool:
    return server.infer([1, 2, 3, 4], model=model).status == 200


def log_lines(server: RunningReplica) -> list[str]:
    return [json.loads(line)["message"] for line in server.log.splitlines() if line.startswith("{")]


def test_a_model_whose_runtime_cannot_be_contained_runs_in_a_process_of_its_own(tmp_path):
    with replica(tmp_path, moody(), scripted("scale", name="inside")) as server:
        assert len(children(server)) == 1
        assert output(server.infer([1, 2, 3, 4])) == [2, 4, 6, 8]
        assert output(server.infer([1, 2, 3, 4], model="inside")) == [2, 4, 6, 8]


def test_what_a_model_raises_and_prints_comes_through(tmp_path):
    with replica(tmp_path, moody()) as server:
        before = child_of(server).pid
        failed = server.infer([RAISES, 0, 0, 0])
        assert failed.status == 500
        assert "poisoned" in failed.json["error"]
        assert works(server)
        server.infer([PRINTS, 0, 0, 0])
        until(lambda: "a word from the model" in server.log, "the model's words are in the log")
        assert any(line == "model m:1 says: a word from the model" for line in log_lines(server))
        assert child_of(server).pid == before


def test_a_model_that_dies_is_replaced_and_its_batch_mates_and_neighbours_are_answered(tmp_path):
    patient = dataclasses.replace(moody(batch=8), queue=QueuePolicy(max_wait_s=60.0))  # the process may come back late
    with replica(tmp_path, patient, scripted("scale", name="near")) as server:
        before = child_of(server).pid
        with ThreadPoolExecutor(9) as pool:
            mates = [pool.submit(server.infer, [i, 0, 0, 0]) for i in range(7)]
            poison = pool.submit(server.infer, [DIES, 0, 0, 0])
            near = pool.submit(server.infer, [1, 2, 3, 4], model="near")
            assert output(near.result()) == [2, 4, 6, 8]
            told = poison.result()
            assert told.status == 500, told.body
            assert "SIGSEGV" in told.json["error"]
            assert [output(m.result())[0] for m in mates] == [2 * i for i in range(7)]
        assert child_of(server).pid != before
        assert server.process.poll() is None
        until(lambda: works(server), "the model answers again")
        restarts = r'modelyard_instance_restarts_total\{model="%s",version="1",how="restarted"\} (\d+)\n'
        metrics = server.get("/metrics").body.decode()
        assert int(re.search(restarts % "m", metrics)[1]) in (1, 2)  # with its batch, and then alone
        assert int(re.search(restarts % "near", metrics)[1]) == 0


@pytest.mark.parametrize("how", ["loop", "stopped"])
def test_a_hung_model_is_answered_for_and_replaced_while_its_neighbour_goes_on(tmp_path, how):
    with replica(tmp_path, moody(batch=1), scripted("scale", name="near")) as server:
        child = child_of(server)
        if how == "stopped":
            child.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            hung = pool.submit(server.infer, [HANGS if how == "loop" else 1, 0, 0, 0])
            while not hung.done():
                assert works(server, "near")
            assert hung.result().status in (500, 503)
        until(lambda: works(server), "the model answers again", 30)
        assert not child.is_running()
        assert server.process.poll() is None


def test_a_model_over_its_memory_limit_fails_alone(tmp_path):
    limited = dataclasses.replace(moody(batch=1), memory_limit_bytes=200 << 20)
    with replica(tmp_path, limited, scripted("scale", name="near")) as server:
        failed = server.infer([HOARDS, 0, 0, 0])
        assert failed.status == 500
        assert "memory" in failed.json["error"].lower()
        assert works(server, "near")
        until(lambda: works(server), "the model answers again")
        assert server.process.poll() is None


def test_after_five_restarts_in_ten_minutes_requests_get_a_503_with_the_reason(tmp_path):
    with replica(tmp_path, moody(batch=1), scripted("scale", name="near")) as server:
        first = child_of(server)
        pids = {first.pid}
        for _ in range(6):
            until(lambda: works(server) or server.get("/v2/models/m/ready").status != 200, "an answer", 30)
            for child in children(server):
                pids.add(child.pid)
            server.infer([DIES, 0, 0, 0])
        until(lambda: server.get("/v2/models/m/ready").status != 200, "the model is not ready")
        refused = server.infer([1, 2, 3, 4])
        assert refused.status == 503
        assert "SIGSEGV" in refused.json["error"]
        assert len(pids) == 6  # the first process and five restarts
        assert works(server, "near")
        index = server.request("POST", "/v2/repository/index", b"{}").json
        assert next(m for m in index if m["name"] == "m")["state"] == "UNAVAILABLE"


def test_the_process_of_a_model_ends_with_its_replica(tmp_path):
    with replica(tmp_path, moody()) as server:
        child = child_of(server)
        server.process.kill()
        server.process.wait()
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the model's process ended")


def test_the_process_of_a_model_survives_a_drain_begun_by_the_terminal(tmp_path):
    """Ctrl-C reaches the whole process group; requests in flight are answered all the same."""
    gate = tmp_path / "gate"
    gate.touch()
    model = dataclasses.replace(scripted("gate", gate=gate, batch=1), isolation=Isolation.PROCESS)
    with replica(tmp_path / "r", model) as server:
        child = child_of(server)
        gate.unlink()
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(server.infer, [1, 2, 3, 4])
            until(lambda: server.held() == 1, "the request is held")
            os.kill(child.pid, signal.SIGINT)
            os.kill(child.pid, signal.SIGTERM)
            server.process.send_signal(signal.SIGINT)
            until(lambda: "draining" in server.log, "the drain begins")
            gate.touch()
            assert pending.result().status == 200
        assert server.process.wait(20) == 0
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the model's process ended")


def test_instances_are_processes_that_run_at_the_same_time(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    model = dataclasses.replace(scripted("gate", gate=gate, batch=1), isolation=Isolation.PROCESS, instances=2)
    with replica(tmp_path / "r", model, max_running=2) as server:
        assert len(children(server)) == 2
        gate.unlink()
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(server.infer([1, 2, 3, 4]).status)) for _ in "ab"]
        for thread in threads:
            thread.start()
        until(lambda: server.held() == 2, "both are held")
        gate.touch()
        for thread in threads:
            thread.join(20)
        assert answers == [200, 200]
        assert Path(gate).exists()


def test_a_model_that_does_not_load_in_its_process_ends_the_replica_with_its_reason(tmp_path):
    refused = dataclasses.replace(scripted("refuse"), isolation=Isolation.PROCESS)
    with replica(tmp_path, refused, wait=False) as server:
        assert server.process.wait(20) not in (0, 5)
        assert "the file is no model" in server.log


HUNG_STEP = """
import time
def apply(tensors):
    while (tensors["x"] == 667).any():
        time.sleep(1)
    return tensors
"""


@pytest.mark.parametrize("phase", ["preprocess", "postprocess"])
def test_a_step_that_hangs_costs_its_own_request_and_a_thread(tmp_path, phase):
    (tmp_path / "steps.py").write_text(HUNG_STEP if phase == "preprocess" else HUNG_STEP.replace('"x"', '"y"'))
    step = (StepSpec("python", {"function": "steps:apply"}),)
    model = dataclasses.replace(scripted("echo", queue=QUICK, batch=1), steps_directory=str(tmp_path), **{phase: step})
    with replica(tmp_path / "r", model, scripted("scale", name="near")) as server:
        with ThreadPoolExecutor(3) as pool:  # more than there are threads for steps
            hung = [pool.submit(server.infer, [HANGS, 0, 0, 0]) for _ in range(3)]
            while not all(h.done() for h in hung):
                assert works(server, "near")
            assert {h.result().status for h in hung} <= {429, 500, 503}  # 429: expired in the queue
        until(lambda: works(server), "the model answers", 30)
        server.terminate()
        assert server.process.wait(20) == 0  # hung threads keep nothing from ending


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_callers_who_retry_see_no_failure_while_replicas_are_killed_and_ended_under_load(tmp_path, number):
    """The rows T10 and T21 in short: `python -m bench.faults` has fifty of each."""
    found = signalled(tmp_path, number, Options(times=3, seconds=0.0, rate=40.0))
    assert found.seen.errors == []
    assert found.seen.requests > 20
    assert len(found.replaced) == 3


@pytest.fixture(scope="module")
def scale_server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("poison")
    outside = dataclasses.replace(scripted("scale", name="outside", batch=16), isolation=Isolation.PROCESS)
    with replica(directory / "r", scripted("scale", batch=16), outside) as server:
        yield server


DIMENSION = st.one_of(st.integers(-3, 6), st.sampled_from([0, 2**31, 2**63 - 1, 2**64, -(2**63)]))
VALUE = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True, width=32), st.sampled_from([1e300, -0.0, 2**70, True, "x"])
)


@pytest.mark.parametrize("model", ["m", "outside"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(DIMENSION, max_size=4),
    data=st.lists(VALUE, max_size=9),
    datatype=st.sampled_from(["FP32", "FP64", "INT64", "BYTES", "BOOL", "FP33", ""]),
    binary=st.booleans(),
)
def test_poison_tensors_change_nothing_for_those_who_come_at_the_same_time(
    scale_server, model, shape, data, datatype, binary
):
    """Row T24."""
    item = {"name": "x", "datatype": datatype, "shape": shape}
    if binary:
        item["parameters"] = {"binary_data_size": 4 * len(data)}
    else:
        item["data"] = data
    head = json.dumps({"inputs": [item]}).encode()
    body = head + np.array([0.5] * len(data), np.float32).tobytes() if binary else head
    with ThreadPoolExecutor(6) as pool:
        good = [pool.submit(scale_server.infer, [3, 3, 3, 3], model=model) for _ in range(3)]
        bad = pool.submit(
            scale_server.request, "POST", f"/v2/models/{model}/infer", body,
            **({"Inference_Header_Content_Length": str(len(head))} if binary else {}),
        )  # fmt: skip
        good += [pool.submit(scale_server.infer, [3, 3, 3, 3], model=model) for _ in range(2)]
        assert [output(g.result()) for g in good] == [[6, 6, 6, 6]] * 5
        assert bad.result().status in (200, 400, 500)
    assert scale_server.process.poll() is None
