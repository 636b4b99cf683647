"""publish, end to end: the four examples go from a manifest to a live, proven, profiled service."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelyard.convert import cpu_flags
from tests.e2e.conftest import YardCli

Trained = Callable[[str], Path]
EASY_SLO = "p99 <= 400 ms at 200 rps"
"""These tests are of the pipeline, not of the machine they run on."""
BF16 = any(flag in cpu_flags() for flag in ("amx_bf16", "avx512_bf16"))


def answer_of(curl: str) -> dict[str, np.ndarray]:
    done = subprocess.run(shlex.split(curl), capture_output=True, text=True, timeout=60, check=True)
    return {o["name"]: np.array(o["data"]).reshape(o["shape"]) for o in json.loads(done.stdout)["outputs"]}


@pytest.mark.timeout(600)
def test_digits_goes_live_with_its_evidence_and_again_without_doing_anything_twice(
    yard: YardCli, trained: Trained, tmp_path: Path
) -> None:
    manifest = trained("digits")
    report = tmp_path / "report.html"
    first = yard.json("publish", str(manifest), "--slo", EASY_SLO, "--effort", "quick", "--html", str(report))

    assert first["version"]["number"] == 1
    assert first["created"] is True
    outcomes = {str(c["target"]["format"]): c["outcome"] for c in first["conversions"]}
    assert outcomes["onnx"] == "proven"
    assert first["choice"]["met"] is True
    chosen = first["choice"]["chosen"]
    assert chosen["indicators"]["p99_ms"]["high"] <= 400
    assert chosen["verdict"]["validity"] != "invalid"
    assert len(first["choice"]["considered"]) >= 4

    assert answer_of(first["curl"])["logits"].shape == (1, 10)
    page = report.read_text()
    assert "digits:1" in page
    assert "<svg" in page
    assert "http://" not in page.replace(first["service"]["endpoint"]["host"], "").replace("http://:", "").replace(
        "http://www.w3.org", ""
    )

    with np.load(manifest.parent / "holdout.npz") as file:
        images, labels = file["x"][:50], file["y"][:50]
    np.save(tmp_path / "images.npy", images)
    predicted = yard.json("predict", "digits", "--input", str(tmp_path / "images.npy"))
    logits = np.array(predicted["outputs"][0]["data"]).reshape(50, 10)
    assert (logits.argmax(1) == labels).mean() > 0.9

    measured = yard.json("measurements", "ls", "digits:1")
    again = yard.json("publish", str(manifest), "--slo", EASY_SLO, "--effort", "quick")
    assert again["created"] is False
    assert again["choice"]["chosen"]["id"] == chosen["id"]
    assert yard.json("measurements", "ls", "digits:1") == measured
    assert [s["service"]["name"] for s in yard.json("services", "ls")] == ["digits"]

    yard.ok("services", "stop", "digits")
    assert yard.json("services", "ls") == []
    assert yard.processes() == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "extra", "outputs"),
    [
        ("tabular", ("--slo", EASY_SLO), {"label", "probabilities"}),
        ("multi_io", ("--slo", EASY_SLO), {"label", "probabilities"}),
        ("resnet50", ("--to", "openvino:bf16" if BF16 else "openvino"), {"logits"}),
    ],
)
def test_every_example_publishes(
    yard: YardCli, trained: Trained, name: str, extra: tuple[str, ...], outputs: set[str]
) -> None:
    published = yard.json("publish", str(trained(name)), "--effort", "quick", *extra)
    assert published["service"]["endpoint"]["http_port"] > 0
    assert "proven" in {c["outcome"] for c in published["conversions"]}
    assert published["choice"]["naive"] is not None
    assert set(answer_of(published["curl"])) == outputs


@pytest.mark.timeout(600)
def test_an_slo_that_nothing_meets_is_said_plainly_and_nothing_is_deployed(yard: YardCli, trained: Trained) -> None:
    done = yard.run("publish", str(trained("tabular")), "--effort", "quick", "--slo", "p99 <= 0.001 ms at 50 rps")
    assert done.returncode == 4
    assert "p99 <= 0.001 ms" in done.stdout
    assert "none of" in done.stdout
    assert yard.json("services", "ls") == []
