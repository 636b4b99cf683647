"""publish under an SLO, end to end: from a manifest to a live, proven, profiled service, or to none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import Trained, YardCli, answer_of

EASY_SLO = "p99 <= 400 ms at 200 rps"
"""These tests are of the pipeline, not of the machine they run on."""


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
def test_an_slo_that_nothing_meets_is_said_plainly_and_one_that_something_meets_is_deployed(
    yard: YardCli, trained: Trained
) -> None:
    manifest = str(trained("tabular"))
    done = yard.run("publish", manifest, "--effort", "quick", "--slo", "p99 <= 0.001 ms at 50 rps")
    assert done.returncode == 4
    assert "p99 <= 0.001 ms" in done.stdout
    assert "none of" in done.stdout
    assert yard.json("services", "ls") == []

    published = yard.json("publish", manifest, "--effort", "quick", "--slo", EASY_SLO)
    assert published["created"] is False
    assert published["service"]["endpoint"]["http_port"] > 0
    assert "proven" in {c["outcome"] for c in published["conversions"]}
    assert published["choice"]["naive"] is not None
    assert set(answer_of(published["curl"])) == {"label", "probabilities"}
