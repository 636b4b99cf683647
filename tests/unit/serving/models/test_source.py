"""What a repository directory may say, and what a client may override."""

from __future__ import annotations

import os
from dataclasses import replace

import msgspec
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.services import VersionPolicy
from modelyard.serving.models import source
from tests.serving_harness import scripted


def put(root, model, *, folder=None, file=None):
    path = root / (folder or model.name) / (file or f"{model.version}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(model))
    return path


def at(directory, entry="model.onnx", steps=""):
    served = scripted("echo")
    artifact = replace(served.artifact, directory=directory, entry=entry)
    return replace(served, artifact=artifact, steps_directory=steps)


def test_versions_and_policy_are_found_and_other_files_are_not_looked_at(tmp_path):
    put(tmp_path, scripted("echo"))
    put(tmp_path, scripted("echo", version=12))
    for name in (".3.json", "03.json", "0.json", "x.json", "4.json.tmp", "-1.json", "5.JSON"):
        (tmp_path / "m" / name).write_text("{")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "m" / "policy.json").write_text('{"latest": 2, "canary": {"12": 0.5}}')
    found = source.scan(str(tmp_path))
    assert set(found) == {"m"}
    assert set(found["m"].versions) == {1, 12}
    assert found["m"].invalid == {}
    assert found["m"].policy == VersionPolicy(latest=2, canary={12: 0.5})


def test_relative_paths_are_of_the_model_s_folder_and_absolute_ones_are_the_operators(tmp_path):
    put(tmp_path, at("files", steps="steps"))
    put(tmp_path, replace(at("/somewhere/else"), version=2))
    found = source.scan(str(tmp_path))["m"].versions
    assert found[1].artifact.directory == str(tmp_path / "m" / "files")
    assert found[1].steps_directory == str(tmp_path / "m" / "steps")
    assert found[2].artifact.directory == "/somewhere/else"
    assert found[2].steps_directory == ""


@pytest.mark.parametrize(
    "served",
    [
        at("../../elsewhere"),
        at("link"),
        at("files", entry="../secret"),
        at("files", entry="/etc/passwd"),
        at("/somewhere", entry="../passwd"),
        at("files", steps="../../elsewhere"),
    ],
)
def test_paths_lead_out_of_neither_the_repository_nor_the_artifact(tmp_path, served):
    root = tmp_path / "repository"
    (root / "m" / "files").mkdir(parents=True)
    (root / "m" / "link").symlink_to(tmp_path)
    put(root, served)
    found = source.scan(str(root))["m"]
    assert found.versions == {}
    assert "leads out of" in str(found.invalid[1])


def test_a_link_out_of_the_repository_is_not_followed(tmp_path):
    root = tmp_path / "repository"
    outside = put(tmp_path / "outside", scripted("echo"))
    (root / "m").mkdir(parents=True)
    (root / "m" / "1.json").symlink_to(outside)
    (root / "m" / "policy.json").symlink_to(outside)
    found = source.scan(str(root))["m"]
    assert "leads out of" in str(found.invalid[1])
    assert "leads out of" in str(found.policy_error)


MISSPELT = msgspec.json.encode(msgspec.to_builtins(scripted("echo")) | {"coalese": True}).decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "truncated"),
        ("[]", "object"),
        ('{"name": "m"}', "missing"),
        ("\xff", "m/1.json"),
        (MISSPELT, "`coalesce`"),
    ],
)
def test_a_file_that_is_wrong_spoils_only_its_own_version(tmp_path, text, said):
    put(tmp_path, scripted("echo", version=2))
    (tmp_path / "m" / "1.json").write_text(text, "latin-1")
    found = source.scan(str(tmp_path))["m"]
    assert set(found.versions) == {2}
    assert said in str(found.invalid[1])


def test_a_file_describes_the_version_that_it_is_named_after(tmp_path):
    put(tmp_path, scripted("echo", version=2), file="1.json")
    put(tmp_path, scripted("echo", name="n"), folder="o")
    found = source.scan(str(tmp_path))
    assert "describes model 'm' version 2" in str(found["m"].invalid[1])
    assert "describes model 'n' version 1" in str(found["o"].invalid[1])


def test_a_repository_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match="cannot read the model repository"):
        source.scan(str(tmp_path / "none"))


def test_a_spec_lists_a_version_once():
    with pytest.raises(InvalidInput, match="twice"):
        source.listed((scripted("echo"), scripted("scale")))
    with pytest.raises(InvalidInput, match="version 0"):
        source.listed((scripted("echo", version=0),))


def test_scheduling_may_be_overridden_and_merges(tmp_path):
    served = scripted("echo", batch=8, delay_us=100)
    changed = source.overridden(served, {"batching": {"max_size": 2}, "threads": 3, "queue": {"max_requests": 5}})
    assert (changed.batching.max_size, changed.batching.max_delay_us) == (2, 100)
    assert (changed.threads, changed.queue.max_requests) == (3, 5)
    assert changed.queue.max_wait_s == served.queue.max_wait_s
    assert changed.artifact == served.artifact


@pytest.mark.parametrize(
    "override",
    [
        {"artifact": {"directory": "/etc"}},
        {"runtime": "other"},
        {"steps_directory": "/etc"},
        {"preprocess": []},
        {"name": "n"},
        {"nonsense": 1},
        {"batching": {"max_size": 0}},
        {"batching": {"max_size": "many"}},
        {"batching": 7},
        {"threads": 0},
        {"weight": -1},
        {"cache_bytes": -1},
        {"instances": "2"},
    ],
)
def test_nothing_else_may_be_and_nonsense_neither(override):
    with pytest.raises(InvalidInput, match="failed to load 'm'"):
        source.overridden(scripted("echo"), override)


def test_a_changed_artifact_has_another_fingerprint(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"one")
    served = at(str(tmp_path))
    first = source.fingerprint(served)
    assert source.fingerprint(served) == first
    os.utime(file, ns=(1, 1))
    second = source.fingerprint(served)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "weights").write_bytes(b"two")
    assert len({first, second, source.fingerprint(served)}) == 3
