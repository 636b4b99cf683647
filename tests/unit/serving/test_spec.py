"""A replica's spec: what it says is meant, so that a key or a value without effect is an error."""

from __future__ import annotations

import msgspec
import pytest

from modelyard.domain.errors import InvalidInput
from modelyard.domain.services import ReplicaSpec, Tracing, VersionPolicy
from modelyard.serving.replica import load_spec
from tests.serving_harness import scripted


def written(tmp_path, **changes):
    plain = msgspec.to_builtins(ReplicaSpec("s", (scripted("echo"),))) | changes
    path = tmp_path / "spec.json"
    path.write_bytes(msgspec.json.encode(plain))
    return path


def test_what_an_engine_writes_is_read_back(tmp_path):
    policy = VersionPolicy(versions=(1, 2), labels={"stable": 1}, canary={2: 0.1})
    spec = ReplicaSpec("s", (scripted("echo"),), tracing=Tracing(0.5, "f"), policies={"m": policy})
    path = tmp_path / "spec.json"
    path.write_bytes(msgspec.json.encode(spec))
    assert load_spec(path) == spec
    path.write_text('{"service": "s", "models": []}')
    assert load_spec(path) == ReplicaSpec("s", ())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"http_prt": 1}, "unknown field `http_prt` (did you mean `http_port`?) - at `$`"),
        ({"tracing": {"rte": 1}}, "unknown field `rte` (did you mean `rate`?) - at `$.tracing`"),
        ({"models": [msgspec.to_builtins(scripted("echo")) | {"coalese": True}]}, "`coalesce`?) - at `$.models[0]`"),
        ({"http_port": "1"}, "Expected `int`, got `str` - at `$.http_port`"),
    ],
)
def test_a_key_that_nothing_reads_is_an_error(tmp_path, changes, said):
    with pytest.raises(InvalidInput) as caught:
        load_spec(written(tmp_path, **changes))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"http_port": 70000}, {"http_port": -1}, {"grpc_port": 65536}, {"max_body_bytes": 0}, {"drain_timeout_s": -1},
        {"max_running": 0}, {"tracing": {"rate": 1.5}},
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_an_error(tmp_path, changes):
    with pytest.raises(InvalidInput, match="cannot run so"):
        load_spec(written(tmp_path, **changes))
