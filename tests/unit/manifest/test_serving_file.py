"""The file of `yard deploy --serving`: what it means, and how its errors are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from modelyard.domain.configuration import Batching, QueuePolicy
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.services import (
    BatchingSettings,
    CallerIdentity,
    GrpcFront,
    Isolation,
    ModelSettings,
    QueueSettings,
    ReplicaSettings,
    Serving,
    Tls,
    Tracing,
)
from modelyard.manifest import serving_file
from modelyard.manifest.serving_file import ServingFile, load_serving, parse_serving

DOCS = Path(__file__).parents[3] / "docs" / "deploying.md"
EVERYTHING = """
model:
  instances: 2
  isolation: process
  weight: 2
  cache: 64MiB
  coalesce: true
  classes: [cat, dog]
  queue: {max_requests: 7, max_wait_s: 1.5, priorities: 3, default_priority: 2, slo_ms: 20}
  batching: {max_size: 16, max_delay_us: 500, max_cost: 4096}
replica:
  tls: {certificate: c.pem, key: k.pem, client_ca: c.pem, caller_certificate: c.pem, caller_key: k.pem}
  unix_socket: s.sock
  tracing: {rate: 0.01, file: spans.jsonl, otlp_endpoint: "http://collector:4318"}
  triton_metrics: true
  max_body: 1GB
  drain_timeout_s: 5
  grpc_front: aio
  max_running: 4
  repository: models
  exit_on_error: false
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("pem")
    return tmp_path


def problems(folder: Path, text: str) -> str:
    with pytest.raises(InvalidInput) as refused:
        parse_serving(text, folder, "serving.yaml")
    assert refused.value.hint
    return f"{refused.value}\n{refused.value.why}\n{refused.value.hint}"


def test_every_key_reaches_its_setting_and_paths_are_relative_to_the_file(folder: Path) -> None:
    (folder / "serving.yaml").write_text(EVERYTHING)
    cert, key = str(folder / "c.pem"), str(folder / "k.pem")
    assert load_serving(folder / "serving.yaml") == Serving(
        ModelSettings(
            instances=2,
            isolation=Isolation.PROCESS,
            weight=2.0,
            cache_bytes=64 * 2**20,
            coalesce=True,
            classes=("cat", "dog"),
            queue=QueueSettings(7, 1.5, 3, 2, 20),
            batching=BatchingSettings(16, 500, 4096),
        ),
        ReplicaSettings(
            tls=Tls(cert, key, cert),
            caller=CallerIdentity(cert, key),
            unix_socket=str(folder / "s.sock"),
            tracing=Tracing(0.01, str(folder / "spans.jsonl"), "http://collector:4318"),
            triton_metrics=True,
            max_body_bytes=10**9,
            drain_timeout_s=5.0,
            grpc_front=GrpcFront.AIO,
            max_running=4,
            repository=str(folder / "models"),
            exit_on_error=False,
        ),
        str(folder / "serving.yaml"),
    )


@pytest.mark.parametrize("text", ["model: {}", "replica:\n", "model:\nreplica: {tracing: {}}"])
def test_what_is_left_out_has_its_default(folder: Path, text: str) -> None:
    found = parse_serving(text, folder, "serving.yaml")
    assert (found.model, found.replica) == (ModelSettings(), ReplicaSettings())


def test_settings_change_what_they_name_and_leave_the_rest() -> None:
    base = QueuePolicy(max_requests=9, slo_ms=20.0)
    assert QueueSettings().over(base) == base
    assert QueueSettings(max_wait_s=2.0).over(base) == QueuePolicy(max_requests=9, max_wait_s=2.0, slo_ms=20.0)
    assert QueueSettings(slo_ms=5.0).over(base).slo_ms == 5.0
    assert QueueSettings(slo_ms=0.0).over(base).slo_ms is None
    with pytest.raises(InvalidInput):
        QueueSettings(default_priority=3).over(base)
    assert BatchingSettings().over(Batching(8, 100)) == Batching(8, 100)
    assert BatchingSettings(max_delay_us=0).over(Batching(8, 100)) == Batching(8, 0)


def test_unknown_keys_name_line_and_nearest_key_all_at_once(folder: Path) -> None:
    told = problems(folder, "model:\n  instancs: 2\n  queue:\n    max_request: 7\nreplicas: {}\n")
    assert "serving.yaml:2: model.instancs: unknown key; did you mean 'instances'?" in told
    assert "serving.yaml:4: model.queue.max_request: unknown key; did you mean 'max_requests'?" in told
    assert "serving.yaml:5: replicas: unknown key; did you mean 'replica'?" in told
    assert "yard deploy REF --serving serving.yaml" in told
    assert "yard register" not in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {instances: 0}", "model.instances"),
        ("model: {instances: true}", "expected a whole number, got true"),
        ("model: {isolation: thraed}", "'auto', 'thread' or 'process'"),
        ("model: {cache: 64MB/s}", "'64MB/s' is not a size; write e.g. 2GiB"),
        ("replica: {max_body: 99999999TiB}", "'99999999TiB' is more than any machine has; write at most 64TiB"),
        (f"replica: {{max_body: {'9' * 400}GiB}}", "is more than any machine has"),
        ("replica: {max_body: 65GiB}", "less than or equal to 68719476736"),
        ("model: {cache: 999999999999999999999}", "model.cache: input should be less than or equal to"),
        ("model: {weight: 1.0e-300}", "model.weight: input should be greater than or equal to"),
        (
            "model: {queue: {max_wait_s: 1.0e+300}}",
            "model.queue.max_wait_s: input should be less than or equal to 86400",
        ),
        ("model: {queue: {slo_ms: .nan}}", "finite"),
        ("model: {queue: {max_requests: 99999999999}}", "less than or equal to 1000000"),
        ("model: {batching: {max_size: 9999999999}}", "less than or equal to 65536"),
        ("model: {batching: {max_delay_us: 9999999999}}", "less than or equal to 60000000"),
        ("replica: {max_running: 9999999999}", "less than or equal to 1024"),
        ("model: {cache: -1}", "model.cache"),
        ("model: {weight: .inf}", "finite"),
        ("model: {queue: {priorities: 2, default_priority: 3}}", "expected 1 (first) to 2"),
        ("replica: {tracing: {rate: 1.5}}", "replica.tracing.rate"),
        ("replica: {tls: {certificate: c.pem}}", "replica.tls.key: this key is required"),
        ("replica: {tls: {certificate: none.pem, key: k.pem}}", "there is no file"),
        ("replica: {tls: {certificate: c.pem, key: k.pem, client_ca: c.pem}}", "add caller_certificate and caller_key"),
        ("replica: {tls: {certificate: c.pem, key: k.pem, caller_key: k.pem}}", "belong together"),
        (f"replica: {{unix_socket: {'x' * 120}}}", "at most 95 bytes"),
        ("replica: {unix_socket: nowhere/s.sock}", "there is no folder"),
        ("replica: {repository: nowhere}", "there is no folder"),
        ("replica: {max_body: 10}", "expected at least 1KiB"),
        ("replica: {grpc_front: slow}", "'fast' or 'aio'"),
        ("", "is empty"),
        ("[1, 2]", "no mapping"),
        ("model: {instances: 1, instances: 2}", "this key stands twice"),
        ("model: !!python/name:os.system", "tags"),
    ],
)
def test_what_is_wrong_is_told_by_key(tmp_path: Path, folder: Path, text: str, said: str) -> None:
    assert said in problems(folder, text)


def test_what_it_names_is_looked_for_even_where_another_key_is_wrong(folder: Path) -> None:
    replica = "replica:\n  tls: {key: none.pem}\n  repository: nowhere\n  unix_socket: none/s\n"
    told = problems(folder, f"model: {{instances: 0}}\n{replica}foo: 1\n")
    assert "5 problems" in told
    assert "model.instances" in told
    assert "replica.tls.certificate: this key is required" in told
    assert f"replica.repository: there is no folder {folder / 'nowhere'}" in told
    assert f"replica.unix_socket: there is no folder {folder / 'none'}" in told
    assert "foo: unknown key" in told


def test_a_file_that_is_not_there_or_no_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        load_serving(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"model: {classes: [\xe9]}")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_serving(tmp_path / "latin.yaml")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_serving(tmp_path)


def sections() -> list[type[BaseModel]]:
    return [v for v in vars(serving_file).values() if isinstance(v, type) and issubclass(v, BaseModel)]


def test_every_key_is_documented_and_no_other() -> None:
    keys = {key for model in sections() for key in model.model_fields} - set(ServingFile.model_fields)
    text = DOCS.read_text().partition("## The serving file")[2].partition("## Further versions")[0]
    first = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {word for cell in first for word in re.findall(r"`(\w+)`", cell)} == keys


def test_the_example_of_the_page_is_read(folder: Path) -> None:
    for name in ("tls", "run"):
        (folder / name).mkdir()
    for name in ("cert.pem", "key.pem"):
        (folder / "tls" / name).write_text("pem")
    text = DOCS.read_text().partition("# serving.yaml\n")[2].partition("\n\n")[0]
    found = parse_serving("\n".join(line[4:] for line in text.splitlines()), folder, "serving.yaml")
    assert found.model.cache_bytes == 64 * 2**20
    assert found.replica.tls is not None
