"""What `yard deploy` makes of a serving file, canaries, shadows and labels: real processes, real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelyard
from modelyard import DeployRequest
from modelyard.cli import main
from modelyard.client import Client, Tls
from modelyard.domain.configuration import Slo
from modelyard.domain.errors import Conflict, InvalidInput, NotFound, Unavailable
from modelyard.domain.services import ServiceState
from modelyard.domain.versions import ModelRef
from modelyard.manifest.serving_file import load_serving

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)
REQUESTS = 200
SHARE = 0.1


def booster(trees: int, columns: int = 4) -> Any:
    import xgboost

    return xgboost.XGBClassifier(n_estimators=trees, max_depth=2).fit(X[:, :columns], Y)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[modelyard.Yard]:
    """A home with `small:1`, `small:2` of the same signature, and `small:3` of another."""
    settings = modelyard.Settings.read({}, home=tmp_path_factory.mktemp("home"))
    with modelyard.open(settings) as opened:
        opened.register_model(booster(5), "small", inputs=X[:8], slo=Slo(250))
        opened.register_model(booster(9), "small", inputs=X[:8])
        opened.register_model(booster(5, columns=3), "small", inputs=X[:8, :3])
        yield opened


@pytest.fixture(autouse=True)
def nothing_left(yard: modelyard.Yard) -> Iterator[None]:
    yield
    for status in yard.services():
        yard.stop(status.service.name)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, and its key beside it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "small")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return tmp_path / "cert.pem"


def served_by(url: str, count: int) -> list[str]:
    with Client(url) as client:
        return [client.infer("small", {"features": X[:1]}).version for _ in range(count)]


def test_a_canary_gets_its_share_and_a_label_leads_to_its_version(
    yard: modelyard.Yard, capsys: pytest.CaptureFixture[str]
) -> None:
    request = DeployRequest(canary={"small:2": SHARE}, labels={"next": "small:2", "stable": "small:1"}, replicas=1)
    service = yard.deploy("small:1", request)
    versions = served_by(service.endpoint.url, REQUESTS)
    assert versions.count("2") == SHARE * REQUESTS  # counted, not drawn, so exact
    with Client(service.endpoint.url) as client:
        assert client.infer("small", {"features": X[:1]}, label="next").version == "2"
        assert client.infer("small", {"features": X[:1]}, label="stable").version == "1"
    traffic = yard.service("small").traffic
    assert traffic is not None
    assert [(v.version, v.share, v.labels) for v in traffic.versions] == [
        (1, 0.9, ("stable",)),
        (2, 0.1, ("next",)),
    ]
    assert sum(v.requests for v in traffic.versions) >= REQUESTS
    assert traffic.error == ""
    assert main(["services", "show", "small", "--home", str(yard.settings.home)]) == 0
    assert "small:2 (canary 0.1, label next)" in capsys.readouterr().out


def test_a_newer_version_that_only_has_a_label_gets_nothing_else(yard: modelyard.Yard) -> None:
    service = yard.deploy("small:1", DeployRequest(labels={"next": "small:3"}))
    assert set(served_by(service.endpoint.url, 20)) == {"1"}
    with Client(service.endpoint.url) as client:
        assert client.infer("small", {"features": X[:1, :3]}, label="next").version == "3"


def test_the_answers_of_a_shadow_are_compared_over_all_replicas(yard: modelyard.Yard) -> None:
    service = yard.deploy("small:1", DeployRequest(shadow="small:2", replicas=2))
    for _ in range(8):  # connections, so that both replicas are met
        assert set(served_by(service.endpoint.url, 10)) == {"1"}
    traffic = yard.service("small").traffic
    assert traffic is not None
    assert traffic.replicas == 2
    shadow = traffic.shadow
    assert shadow is not None
    assert (shadow.version, shadow.offered) == (2, 80)
    assert 0 < shadow.compared <= 80
    assert shadow.max_abs_error > 0  # other trees, other probabilities


def test_a_host_that_is_not_this_machines_is_refused_before_anything_starts(
    yard: modelyard.Yard, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["deploy", "small:1", "--host", "192.0.2.1", "--home", str(yard.settings.home)])
    told = capsys.readouterr().err
    assert code == 2
    assert "no network interface of this machine" in told
    assert "starting" not in told


def test_broken_models_of_a_repository_are_told_together_before_anything_starts(
    yard: modelyard.Yard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {
        "damaged": {"1.json": "{"},
        "misruled": {"policy.json": '{"versions": [7]}'},
        "lost": {"1.json": json.dumps(a_served_model("lost", str(tmp_path / "nowhere")))},
    }
    for name, files in models.items():
        (tmp_path / "repository" / name).mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / "repository" / name / file).write_text(text)
    file = tmp_path / "serving.yaml"
    file.write_text("replica: {repository: repository}")
    deploy = ["deploy", "small:1", "--serving", str(file), "--home", str(yard.settings.home)]
    assert main(deploy) == 2
    told = capsys.readouterr().err
    for problem in ("3 models of", "cannot read damaged/1.json", "'misruled' version 7", "model 'lost' version 1"):
        assert problem in told
    assert "starting" not in told
    file.write_text("replica: {repository: repository, exit_on_error: false}")
    assert main(deploy) == 0
    with Client(yard.service("small").service.endpoint.url) as client:
        states = {model.name: model.state for model in client.models()}
    assert states == {"small": "READY", "damaged": "UNAVAILABLE", "lost": "UNAVAILABLE"}


def a_served_model(name: str, directory: str) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": ["batch", 4]}
    artifact = {"directory": directory, "entry": "model.onnx", "target": {"format": "onnx"}, "precision": "fp32"}
    artifact["signature"] = {"inputs": [tensor], "outputs": [tensor]}
    return {"name": name, "version": 1, "artifact": artifact, "runtime": "onnxruntime"}


def test_what_cannot_stand_beside_it_is_refused_before_anything_starts(yard: modelyard.Yard) -> None:
    with pytest.raises(Conflict, match="cannot share requests") as refused:
        yard.deploy("small:1", DeployRequest(canary={"small:3": 0.5}))
    assert "label" in refused.value.hint
    for request in (
        DeployRequest(canary={"small:1": 0.5}),
        DeployRequest(canary={"small:2": 0.5}, shadow="small:2"),
        DeployRequest(canary={"small:2": 1.5}),
    ):
        with pytest.raises(InvalidInput):
            yard.deploy("small:1", request)
    with pytest.raises(NotFound):
        yard.deploy("small:1", DeployRequest(shadow="small:9"))
    assert yard.services() == []


def test_the_slo_of_a_version_is_the_queues_unless_the_file_says_none(yard: modelyard.Yard, tmp_path: Path) -> None:
    service = yard.deploy("small:1")
    assert service.configuration.queue.slo_ms == 250
    yard.stop("small")
    file = tmp_path / "serving.yaml"
    file.write_text("model: {queue: {slo_ms: 0, max_requests: 7}, batching: {max_size: 4}}")
    service = yard.deploy("small:1", DeployRequest(serving=load_serving(file)))
    assert service.configuration.queue.slo_ms is None
    assert (service.configuration.queue.max_requests, service.configuration.batching.max_size) == (7, 4)
    plan = json.loads((Path(service.directory) / "plan.json").read_text())
    assert plan["spec"]["models"][0]["queue"]["max_requests"] == 7


def test_a_served_version_beside_the_main_one_cannot_be_removed(yard: modelyard.Yard) -> None:
    yard.deploy("small:1", DeployRequest(canary={"small:2": 0.5}))
    with pytest.raises(Conflict, match="served by small"):
        yard.hub.versions.delete(ModelRef("small", version=2))


def test_a_unix_socket_serves_through_replacement_of_its_replicas(yard: modelyard.Yard, tmp_path: Path) -> None:
    file, path = tmp_path / "serving.yaml", tmp_path / "s.sock"
    file.write_text("replica: {unix_socket: s.sock}\nmodel: {instances: 2}\n")
    serving = load_serving(file)
    yard.deploy("small:1", DeployRequest(serving=serving, replicas=2))
    assert served_by(f"unix://{path}", 3) == ["1"] * 3
    assert served_by(f"unix://{path}.1", 3) == ["1"] * 3
    yard.deploy("small:2", DeployRequest(serving=serving, replicas=2, replace=True))
    assert served_by(f"unix://{path}", 3) == ["2"] * 3
    assert served_by(f"unix://{path}.1", 3) == ["2"] * 3
    with pytest.raises(Conflict, match="another process"):
        yard.deploy("small:1", DeployRequest(name="thief", serving=serving))
    yard.stop("small")
    assert not list(tmp_path.glob("s.sock*"))


def test_tls_is_spoken_by_the_service_and_by_yards_own_calls(
    yard: modelyard.Yard, tmp_path: Path, certificate: Path
) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text("replica: {tls: {certificate: cert.pem, key: key.pem}}")
    serving = load_serving(file)
    service = yard.deploy("small:1", DeployRequest(serving=serving))
    assert service.endpoint.url.startswith("https://127.0.0.1:")
    with Client(service.endpoint.url, tls=Tls(ca_file=certificate)) as client:
        assert client.infer("small", {"features": X[:1]}).version == "1"
    with Client(f"http://127.0.0.1:{service.endpoint.http_port}", retries=None) as client, pytest.raises(Unavailable):
        client.infer("small", {"features": X[:1]}, timeout_s=5)
    assert yard.predict("small", {"features": X[:2]})["probabilities"].shape == (2, 2)
    with pytest.raises(Conflict, match="TLS"):
        yard.deploy("small:2", DeployRequest(replace=True))
    yard.deploy("small:2", DeployRequest(replace=True, serving=serving))
    status = yard.service("small")
    assert (status.state, status.service.version) == (ServiceState.READY, 2)
    assert status.traffic is not None
    assert status.traffic.error == ""


def test_a_service_that_asks_for_certificates_is_probed_and_asked_with_one(
    yard: modelyard.Yard, tmp_path: Path, certificate: Path
) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(
        "replica:\n  tls:\n    certificate: cert.pem\n    key: key.pem\n    client_ca: cert.pem\n"
        "    caller_certificate: cert.pem\n    caller_key: key.pem\n"
    )
    service = yard.deploy("small:1", DeployRequest(serving=load_serving(file)))
    assert yard.predict("small", {"features": X[:2]})["probabilities"].shape == (2, 2)
    with Client(service.endpoint.url, tls=Tls(ca_file=certificate), retries=None) as client, pytest.raises(Unavailable):
        client.infer("small", {"features": X[:1]}, timeout_s=5)


def test_a_capped_service_says_what_is_in_force_and_takes_no_more_threads_than_its_cores(yard: modelyard.Yard) -> None:
    service = yard.deploy("small:2", DeployRequest(cpu_limit=1))
    assert (service.configuration.cpu_limit, service.configuration.threads) == (1, 1)
    applied = yard.service("small").limits
    assert [limits.cpu_limit for limits in applied] == [1]
    assert {limits.cpu_enforcement for limits in applied} <= {"cgroup-v2", "cgroup-v1", "affinity"}
    kept = yard.deploy("small:2", DeployRequest(cpu_limit=2, replace=True)).configuration
    assert (kept.cpu_limit, yard.service("small").service.configuration) == (2, kept)
