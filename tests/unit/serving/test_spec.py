"""A replica's spec: what it says is meant, so that a key or a value without effect is an error."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from modelyard.domain.configuration import QueuePolicy, Slo
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
        {"max_running": 0}, {"tracing": {"rate": 1.5}}, {"drain_timeout_s": 1e300}, {"max_body_bytes": 2**60},
        {"memory_limit_bytes": -4}, {"max_running": 2**40},
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_an_error(tmp_path, changes):
    with pytest.raises(InvalidInput, match="cannot run so"):
        load_spec(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("", "instances", 2**40), ("", "threads", 0), ("", "weight", 1e-300), ("", "cache_bytes", 2**62),
        ("", "memory_limit_bytes", 0), ("batching", "max_size", 2**40), ("batching", "max_delay_us", 2**60),
        ("batching", "max_cost", 2**60), ("queue", "max_wait_s", 1e300), ("queue", "max_requests", 2**60),
        ("queue", "priorities", 2**40), ("queue", "slo_ms", 1e300),
    ],
)  # fmt: skip
def test_a_number_of_a_model_that_cannot_be_is_an_error_with_its_bounds(tmp_path, section, key, value):
    model = msgspec.to_builtins(scripted("echo"))
    (model[section] if section else model)[key] = value
    with pytest.raises(InvalidInput) as caught:
        load_spec(written(tmp_path, models=[model]))
    assert f"{key} " in str(caught.value)
    assert " to " in str(caught.value) or "at most" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_number_that_is_none_is_refused_wherever_it_comes_from(value):
    for make in (
        lambda: QueuePolicy(max_wait_s=value),
        lambda: QueuePolicy(slo_ms=value),
        lambda: Slo(value),
        lambda: Slo(20, value),
        lambda: replace(scripted("echo"), weight=value),
        lambda: ReplicaSpec("s", (), drain_timeout_s=value),
        lambda: ReplicaSpec("s", (), tracing=Tracing(value)),
    ):
        with pytest.raises(InvalidInput):
            make()
