"""Versions come and go under real traffic: no request fails, and every response is of one version."""

from __future__ import annotations

import http.client
import itertools
import json
import signal
import struct
import threading
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc

from modelyard.domain.services import VersionPolicy
from modelyard.domain.tensors import Signature
from tests.serving_harness import replica, scripted, tensor, until


def adding(version, *, name="m", **options):
    """A model that adds its version to every number: answers show who gave them."""
    return scripted("add", name=name, version=version, add=version, **options)


class Directory:
    """A model repository on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def put(self, *models):
        for model in models:
            folder = self.path / model.name
            folder.mkdir(exist_ok=True)
            temporary = folder / f".{model.version}"
            temporary.write_bytes(msgspec.json.encode(model))
            temporary.replace(folder / f"{model.version}.json")

    def remove(self, name, version):
        (self.path / name / f"{version}.json").unlink()


class Traffic:
    """Clients by JSON, binary tensors and gRPC that count answers by version, and note whatever goes wrong."""

    def __init__(self, server, expect=lambda version: version):
        self.server = server
        self.expect = expect
        self.versions: Counter[int] = Counter()
        self.by_client = [0, 0, 0, 0]
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(i, make))
            for i, make in enumerate((self._json, self._json, self._binary, self._grpc))
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        until(lambda: min(self.by_client) > 0 or self.wrong, "every client is served")
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, me, make):
        ask = make()
        for i in itertools.cycle(range(1, 200)):
            if self._stop.is_set():
                return
            try:
                version, values = ask(float(i))
            except Exception as error:  # noqa: BLE001 - whatever it is, the test fails by it
                self.wrong.append(repr(error))
                return
            if values != [i + self.expect(version)] * 4:
                self.wrong.append(f"version {version} answered {values} to {i}")
            self.versions[version] += 1
            self.by_client[me] += 1

    def _post(self, connection, body, headers):
        connection.request("POST", "/v2/models/m/infer", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, f"{answer.status} {content!r}"
        return answer, content

    def _json(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=15)

        def ask(value):
            item = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}
            _, content = self._post(connection, json.dumps({"inputs": [item]}), {})
            answer = json.loads(content)
            return int(answer["model_version"]), answer["outputs"][0]["data"]

        return ask

    def _binary(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=15)
        item = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
        head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()

        def ask(value):
            body = head + struct.pack("<4f", *[value] * 4)
            answer, content = self._post(connection, body, {"Inference-Header-Content-Length": str(len(head))})
            split = int(answer.headers["Inference-Header-Content-Length"])
            return int(json.loads(content[:split])["model_version"]), list(struct.unpack("<4f", content[split:]))

        return ask

    def _grpc(self):
        client = triton_grpc.InferenceServerClient(f"127.0.0.1:{self.server.grpc_port}")
        item = triton_grpc.InferInput("x", [1, 4], "FP32")

        def ask(value):
            item.set_data_from_numpy(np.full((1, 4), value, np.float32))
            answer = client.infer("m", [item])
            return int(answer.get_response().model_version), answer.as_numpy("y")[0].tolist()

        return ask


def versions(server, name="m"):
    return [int(v) for v in server.get(f"/v2/models/{name}").json.get("versions", ())]


def reread(server):
    """Make the replica re-read its repository; waits until it has."""
    ends = ("the model repository is followed", "the model repository is not followed in full")

    def ended():
        return sum(server.log.count(end) for end in ends)

    done = ended()
    server.process.send_signal(signal.SIGHUP)
    until(lambda: ended() > done, "the repository is re-read")


def test_a_hundred_swaps_and_broken_versions_under_load_fail_no_request(tmp_path):
    """T22, with every tenth version broken: those change nothing."""
    directory = Directory(tmp_path / "repository")
    directory.put(adding(1))
    with replica(tmp_path / "r", repository=str(directory.path)) as server:
        assert versions(server) == [1]
        with Traffic(server) as traffic:
            served = 1
            for version in range(2, 102):
                broken = version % 10 == 0
                directory.put(scripted("refuse", version=version) if broken else adding(version))
                reread(server)
                if not broken:
                    served = version
                assert versions(server) == [served]
                if broken:
                    directory.remove("m", version)
                before = sum(traffic.by_client)
                until(lambda: sum(traffic.by_client) > before or traffic.wrong, "answers go on")  # noqa: B023
                assert traffic.wrong == []
        assert traffic.wrong == []
        assert len(traffic.versions) > 50
        assert "the file is no model" in server.log


def test_versions_of_a_spec_load_in_parallel_and_a_broken_one_leaves_the_others(tmp_path):
    gate, other = tmp_path / "gate", tmp_path / "other"
    models = (adding(1, load_gate=gate), adding(2, load_gate=other), scripted("refuse", version=3))
    with replica(tmp_path / "r", *models, wait=False) as server:
        # the gates are opened in the order opposite to the spec's: one loader alone would wait for ever
        other.touch()
        until(lambda: "loading" in server.log or server.process.poll() is None, "the replica runs")
        gate.touch()
        until(server.files["ready"].exists, "the replica is ready")
        ports = json.loads(server.files["ready"].read_bytes())
        server.http_port = ports["http_port"]
        assert versions(server) == [1, 2]
        answer = server.infer([0, 0, 0, 0])
        assert answer.json["model_version"] == "2"
        broken = server.request("POST", "/v2/models/m/versions/3/infer", b"{}")
        assert broken.status == 503
        assert "the file is no model" in broken.json["error"]
        assert server.get("/v2/models/m/versions/3/ready").status == 503


def test_a_label_leads_to_its_version_and_an_unknown_one_is_not_found(tmp_path):
    policy = {"m": VersionPolicy(labels={"stable": 1, "next": 2})}
    with replica(tmp_path, adding(1), adding(2), policies=policy) as server:
        body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}]})
        for label, version in (("stable", "1"), ("next", "2")):
            answer = server.request("POST", f"/v2/models/m/labels/{label}/infer", body.encode())
            assert answer.json["model_version"] == version
        answer = server.request("POST", "/v2/models/m/labels/old/infer", body.encode())
        assert answer.status == 404
        assert "no label 'old'" in answer.json["error"]


def test_a_canary_gets_its_share_of_the_requests_exactly(tmp_path):
    policy = {"m": VersionPolicy(canary={2: 0.1})}
    with replica(tmp_path, adding(1), adding(2), policies=policy) as server:
        seen = Counter(server.infer([0, 0, 0, 0]).json["model_version"] for _ in range(100))
        assert seen == {"1": 90, "2": 10}
        by_name = Counter(
            server.request(
                "POST",
                "/v2/models/m/versions/1/infer",
                json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0] * 4}]}).encode(),
            ).json["model_version"]
            for _ in range(20)
        )
        assert by_name == {"1": 20}


def test_a_shadow_sees_copies_and_nobody_sees_the_shadow(tmp_path):
    policy = {"m": VersionPolicy(shadow=2)}
    with replica(tmp_path, adding(1), adding(2), policies=policy) as server:
        for _ in range(30):
            assert server.infer([0, 1, 2, 3]).json["model_version"] == "1"

        def shadow():
            (found,) = server.get("/stats").json["shadows"]
            return found if found["dropped"] + found["compared"] == 30 else None

        found = until(shadow, "all copies are accounted for")
        assert found["offered"] == 30
        assert found["compared"] > 0
        assert (found["model"], found["version"], found["failed"], found["mismatched"]) == ("m", 2, 0, 0)
        assert found["max_abs_error"] == 1.0  # version 2 adds one more
        assert found["rows"] == found["rows_agreeing"] == found["compared"]


def test_a_shadow_that_hangs_or_raises_hurts_no_answer(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    policy = {"m": VersionPolicy(shadow=2), "n": VersionPolicy(shadow=2)}
    models = (
        adding(1), scripted("gate", version=2, gate=gate), adding(1, name="n"), scripted("poison", name="n", version=2),
    )  # fmt: skip
    with replica(tmp_path / "r", *models, policies=policy) as server:
        for _ in range(5):
            assert server.infer([666, 0, 0, 0], model="n").status == 200

        def failed():
            return [s for s in server.get("/stats").json["shadows"] if s["model"] == "n" and s["failed"]]

        until(failed, "the shadow's failures are counted")
        gate.unlink()
        answers = [server.infer([0, 0, 0, 0]) for _ in range(30)]
        assert [a.json["model_version"] for a in answers] == ["1"] * 30
        (stuck,) = [s for s in server.get("/stats").json["shadows"] if s["model"] == "m"]
        assert stuck["dropped"] >= 28  # one runs for ever; while it does the replica is not idle
        gate.touch()


def test_fifty_versions_come_and_go_and_their_memory_goes_with_them(tmp_path):
    directory = Directory(tmp_path / "repository")
    closed = tmp_path / "closed"
    closed.touch()
    directory.put(adding(1, megabytes=16, closed=closed))
    with replica(tmp_path / "r", repository=str(directory.path)) as server:
        process = psutil.Process(server.process.pid)
        threads = []
        resident = []
        for version in range(2, 52):
            directory.put(adding(version, megabytes=16, closed=closed))
            directory.remove("m", version - 1)
            reread(server)
            assert server.infer([0, 0, 0, 0]).json["model_version"] == str(version)
            until(lambda: len(closed.read_text().split()) == version - 1, "the old version is closed")  # noqa: B023
            resident.append(process.memory_info().rss)
            threads.append(process.num_threads())
        assert max(resident[5:]) - resident[5] < 48 << 20  # 46 versions of 16 MiB each came after
        assert threads[-1] <= max(threads[:5])


def test_a_start_without_any_version_of_a_model_fails(tmp_path):
    directory = Directory(tmp_path / "repository")
    directory.put(scripted("refuse", name="bad"))
    with replica(tmp_path / "r", adding(1), repository=str(directory.path), wait=False) as server:
        assert server.process.wait(20) not in (0, 5)
        assert "the file is no model" in server.log


@pytest.mark.parametrize("text", ["{", '{"name": "m", "version": 7}', "[]"])
def test_a_broken_file_in_the_repository_changes_nothing_that_serves(tmp_path, text):
    directory = Directory(tmp_path / "repository")
    directory.put(adding(1))
    with replica(tmp_path / "r", repository=str(directory.path)) as server:
        (directory.path / "m" / "2.json").write_text(text)
        reread(server)
        assert versions(server) == [1]
        assert server.infer([0, 0, 0, 0]).json["model_version"] == "1"
        assert "m/2.json" in server.log


def test_a_hundred_valid_and_invalid_policies_under_load_keep_the_last_good_one(tmp_path):
    """T23: every second policy is wrong in its own way; the one before it stays in force."""
    directory = Directory(tmp_path / "repository")
    directory.put(adding(1), adding(2), adding(3), scripted("refuse", version=4))
    file = directory.path / "m" / "policy.json"
    wrong = (
        '{"versions": [9]}',
        "{",
        '{"canary": {"2": 0.7, "3": 0.7}}',
        '{"versions": [2, 4]}',
        '{"latest": 0}',
        '{"labels": {"stable": 8}}',
        '{"latest": "two"}',
    )
    file.write_bytes(msgspec.json.encode(VersionPolicy(versions=(1,))))
    with replica(tmp_path / "r", repository=str(directory.path)) as server, Traffic(server) as traffic:
        for i in range(50):
            good = 1 + i % 3
            file.write_bytes(msgspec.json.encode(VersionPolicy(versions=(good,), labels={"stable": good})))
            reread(server)
            assert versions(server) == [good]
            file.write_text(wrong[i % len(wrong)])
            reread(server)
            assert versions(server) == [good]
            assert traffic.wrong == []
    assert traffic.wrong == []
    assert set(traffic.versions) == {1, 2, 3}
    assert server.log.count("is not followed in full") == 50


def test_a_changed_policy_moves_the_canary_and_the_shadow(tmp_path):
    directory = Directory(tmp_path / "repository")
    directory.put(adding(1), adding(2))
    file = directory.path / "m" / "policy.json"
    file.write_bytes(msgspec.json.encode(VersionPolicy(canary={2: 0.5})))
    with replica(tmp_path / "r", repository=str(directory.path)) as server:
        for policy, seen in (
            (VersionPolicy(canary={2: 0.25}), {"1": 15, "2": 5}),
            (VersionPolicy(shadow=2), {"1": 20}),
            (VersionPolicy(), {"2": 20}),
            (VersionPolicy(shadow=1), {"2": 20}),
        ):
            file.write_bytes(msgspec.json.encode(policy))
            reread(server)
            answers = Counter(server.infer([0, 0, 0, 0]).json["model_version"] for _ in range(20))
            assert answers == seen
        file.unlink()
        reread(server)
        assert versions(server) == [2]  # the default of a repository: the latest


def test_versions_that_differ_in_their_tensors_cannot_share_requests(tmp_path):
    wide = Signature((tensor("x", "FP32", "batch", 5),), (tensor("y", "FP32", "batch", 5),))
    directory = Directory(tmp_path / "repository")
    directory.put(adding(1), scripted("add", wide, version=2, add=2))
    with replica(tmp_path / "r", repository=str(directory.path)) as server:
        assert versions(server) == [2]
        file = directory.path / "m" / "policy.json"
        file.write_bytes(msgspec.json.encode(VersionPolicy(latest=1, canary={2: 0.5})))
        reread(server)
        assert "cannot share requests" in server.log
        assert versions(server) == [2]
        assert server.infer([0, 0, 0, 0, 0]).json["model_version"] == "2"


def test_a_version_that_is_drained_answers_what_it_holds(tmp_path):
    directory = Directory(tmp_path / "repository")
    gate, closed = tmp_path / "gate", tmp_path / "closed"
    gate.touch()
    directory.put(scripted("gate", version=1, gate=gate, batch=1, closed=closed))
    with replica(tmp_path / "r", repository=str(directory.path)) as server:
        gate.unlink()
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(server.infer([1, 2, 3, 4]))) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: server.held() == 3, "three requests are held")
        directory.put(adding(2))
        reread(server)
        assert server.infer([0, 0, 0, 0]).json["model_version"] == "2"
        assert answers == []
        assert not closed.exists()
        gate.touch()
        for thread in threads:
            thread.join(20)
        assert [(a.status, a.json["model_version"]) for a in answers] == [(200, "1")] * 3
        until(closed.exists, "the drained version is closed")


def test_a_drain_of_a_version_that_hangs_is_bounded(tmp_path):
    directory = Directory(tmp_path / "repository")
    gate = tmp_path / "gate"
    gate.touch()
    directory.put(scripted("gate", version=1, gate=gate, batch=1))
    with replica(tmp_path / "r", repository=str(directory.path), drain_timeout_s=0.3) as server:
        gate.unlink()
        hanging = threading.Thread(target=server.infer, args=([1, 2, 3, 4],))
        hanging.start()
        until(lambda: server.held() == 1, "the request is held")
        directory.put(adding(2))
        reread(server)
        until(lambda: "the drain timed out" in server.log, "the drain is given up")
        assert server.infer([0, 0, 0, 0]).json["model_version"] == "2"
        gate.touch()
        hanging.join(20)


def test_nothing_is_stalled_by_a_load_that_never_ends(tmp_path):
    directory = Directory(tmp_path / "repository")
    gate = tmp_path / "gate"
    directory.put(adding(1))
    with replica(tmp_path / "r", repository=str(directory.path)) as server, Traffic(server) as traffic:
        directory.put(adding(2, load_gate=gate), adding(1, name="other"))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.get("/v2/models/other/ready").status == 200, "another model loads meanwhile")
        before = sum(traffic.by_client)
        until(lambda: sum(traffic.by_client) > before + 20, "answers go on")
        assert versions(server) == [1]
        gate.touch()
        until(lambda: versions(server) == [2], "the load ends")
        until(lambda: traffic.versions[2] or traffic.wrong, "the new version answers")
    assert traffic.wrong == []


def test_a_signal_while_the_replica_starts_is_not_lost(tmp_path):
    directory = Directory(tmp_path / "repository")
    gate = tmp_path / "gate"
    directory.put(adding(1, load_gate=gate))
    with replica(tmp_path / "r", repository=str(directory.path), wait=False) as server:
        until(lambda: "tests.serving_child" in " ".join(psutil.Process(server.process.pid).cmdline()), "it runs")
        until(server.files["beat"].exists, "its loop turns")
        directory.put(adding(2))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "re-reading" in server.log, "the signal is heard")
        gate.touch()
        until(server.files["ready"].exists, "the replica is ready")
        server.http_port = json.loads(server.files["ready"].read_bytes())["http_port"]
        until(lambda: versions(server) == [2], "the later version is followed")


def test_loads_and_unloads_by_both_apis_under_load(tmp_path):
    """The same by the Open Inference Protocol's repository extension, over REST and gRPC."""
    directory = Directory(tmp_path / "repository")
    directory.put(adding(1), adding(1, name="other"))
    with (
        replica(tmp_path / "r", repository=str(directory.path)) as server,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client,
        Traffic(server) as traffic,
    ):
        for version in range(2, 12):
            directory.put(adding(version))
            client.unload_model("other")
            if version % 2:
                client.load_model("m")
            else:
                assert server.request("POST", "/v2/repository/models/m/load").status == 200
            client.load_model("other")
            assert versions(server) == [version]
            assert client.is_model_ready("other")
            answer = traffic.versions[version]
            until(lambda: traffic.versions[version] > answer or traffic.wrong, "it answers")  # noqa: B023
        directory.put(scripted("refuse", version=12))
        answer = server.request("POST", "/v2/repository/models/m/load")
        assert answer.status == 400
        assert answer.json["error"].startswith("failed to load 'm', version 12 is at UNAVAILABLE state")
        states = {i["version"]: i for i in server.request("POST", "/v2/repository/index").json if i["name"] == "m"}
        assert states["11"]["state"] == "READY"
        assert (states["12"]["state"], states["12"]["reason"]) == ("UNAVAILABLE", "the file is no model")
        assert server.request("POST", "/v2/repository/models/none/load").status == 404
    assert traffic.wrong == []
