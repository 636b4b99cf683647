"""kill -9 at random points: nothing acknowledged is lost, nothing half-made is seen, one gc leaves no orphan."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelyard.domain.errors import NotFound
from modelyard.domain.versions import ModelRef
from modelyard.hub import Hub

ROUNDS = {"sqlite": 40, "postgresql": 12}
EVERYTHING = {"register", "add", "alias", "delete"}
_LONGEST_LIFE_S = 0.25


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_kill_9_loses_nothing_acknowledged(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{tmp_path}/hub.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    blobs = str(tmp_path / "blobs")
    draw = random.Random(time.time_ns())  # other points every time
    Hub.open(url, blobs, tmp_path / "check").close()
    with _writer(tmp_path, url, blobs) as writer:
        for seed in range(10 * ROUNDS[database]):
            done = {entry["do"] for entry in _notes(tmp_path, "acks")}
            if seed >= ROUNDS[database] and done >= EVERYTHING:
                break  # on a busy machine some lives are too short for anything
            _live_and_die(writer, tmp_path, seed, draw.uniform(0, _LONGEST_LIFE_S))
            with Hub.open(url, blobs, tmp_path / "check") as hub:
                _check_nothing_lost(hub, _notes(tmp_path, "acks"), _notes(tmp_path, "intents"))
                if seed % 5 == 4:
                    _check_all_whole(hub, _notes(tmp_path, "acks"))
                    _check_gc(hub)
    with Hub.open(url, blobs, tmp_path / "fresh") as hub:
        _check_gc(hub)
        _check_all_whole(hub, _notes(tmp_path, "acks"))
    done = {entry["do"] for entry in _notes(tmp_path, "acks")}
    assert done >= EVERYTHING, "the writer did too little for this test to mean anything"


@contextmanager
def _writer(directory: Path, url: str, blobs: str) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("hub_writer.py")
    command = [sys.executable, str(script), str(directory), url, blobs]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate(timeout=30)
    assert process.returncode == 0


def _live_and_die(writer: subprocess.Popen[str], directory: Path, seed: int, life_s: float) -> None:
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(f"{seed}\n")
    writer.stdin.flush()
    pid = int(writer.stdout.readline())
    deadline = time.monotonic() + 60
    while not any(entry["seed"] == seed for entry in _notes(directory, "acks")):
        assert time.monotonic() < deadline, "the writer did not get ready"
        time.sleep(0.005)
    time.sleep(life_s)  # not synchronisation: the random point of the kill
    os.kill(pid, signal.SIGKILL)
    assert int(writer.stdout.readline()) == signal.SIGKILL, "the writer failed by itself"


def _check_nothing_lost(hub: Hub, acks: list[dict[str, str]], intents: list[dict[str, str]]) -> None:
    deleted = {entry["ref"] for entry in [*acks, *intents] if entry["do"] == "delete"}
    surely_deleted = {entry["ref"] for entry in acks if entry["do"] == "delete"}
    for entry in acks:
        if entry["do"] == "register" and entry["ref"] not in deleted:
            version = hub.versions.get(ModelRef.parse(entry["ref"]))
            assert version.description.tags == ("crash",)
        if entry["do"] == "add" and entry["ref"] not in deleted:
            assert hub.artifacts.get(entry["artifact"]).standing.servable
    for ref in surely_deleted:
        with pytest.raises(NotFound):
            hub.versions.get(ModelRef.parse(ref))
    _check_aliases(hub, acks, intents)


def _check_all_whole(hub: Hub, acks: list[dict[str, str]]) -> None:
    """Whatever is visible, acknowledged or not, is complete: rows, files, every byte."""
    contents = {entry["ref"]: entry["content"] for entry in acks if entry["do"] == "register"}
    for summary in hub.versions.models():
        versions = hub.versions.list(summary.name)
        assert len({v.number for v in versions}) == len(versions)
        for version in versions:
            (source, *_) = artifacts = hub.artifacts.list(ModelRef(version.model, version=version.number))
            assert source.id == version.source_artifact
            for artifact in artifacts:
                assert hub.artifacts.checkout(artifact).entry == artifact.entry
            content = (hub.versions.checkout(version) / "model.pt2").read_bytes()
            assert content[:16].hex() == contents.get(version.ref, content[:16].hex())


def _check_aliases(hub: Hub, acks: list[dict[str, str]], intents: list[dict[str, str]]) -> None:
    """An alias is where the last acknowledged move put it, or where an unacknowledged later one meant to."""
    for model in {entry["model"] for entry in acks if entry["do"] == "alias"}:
        last = [e["number"] for e in acks if e["do"] == "alias" and e["model"] == model][-1]
        meant = [e["number"] for e in intents if e["do"] == "alias" and e["model"] == model][-1]
        assert hub.aliases.list(model)["production"] in (last, meant)


def _check_gc(hub: Hub) -> None:
    """One gc, right after the kill, removes every leftover; the stored blobs are then exactly the referenced ones."""
    hub.gc()
    wanted = {
        file.digest
        for summary in hub.versions.models()
        for version in hub.versions.list(summary.name)
        for artifact in hub.artifacts.list(ModelRef(version.model, version=version.number))
        for file in artifact.files
    }
    stored = {blob.digest for blob in hub._store.scan()}
    shared = stored - wanted
    assert wanted <= stored
    assert len(shared) <= 1, "only the dataset is no artifact's file"
    again = hub.gc(dry_run=True)
    assert (again.blobs, again.temp_files) == (0, 0)


def _notes(directory: Path, log: str) -> list[dict[str, str]]:
    path = directory / log
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]  # the writer may have died within a line
    return [json.loads(line) for line in whole.splitlines()]
