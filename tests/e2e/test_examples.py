"""publish without an SLO, end to end: the other examples. What is fastest of them is not judged here."""

from __future__ import annotations

import pytest

from modelyard.convert import cpu_flags
from tests.e2e.conftest import Trained, YardCli, answer_of

FAST = "openvino:bf16" if any(flag in cpu_flags() for flag in ("amx_bf16", "avx512_bf16")) else "openvino"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "extra", "outputs"),
    [("multi_io", (), {"label", "probabilities"}), ("resnet50", ("--to", FAST), {"logits"})],
)
def test_every_example_publishes(
    yard: YardCli, trained: Trained, name: str, extra: tuple[str, ...], outputs: set[str]
) -> None:
    manifest = trained(name)
    kept = [line for line in manifest.read_text().splitlines() if not line.startswith("slo:")]  # busy machines miss it
    without = manifest.with_name("without-slo.yaml")
    without.write_text("\n".join(kept))
    published = yard.json("publish", str(without), "--effort", "quick", *extra)
    assert published["service"]["endpoint"]["http_port"] > 0
    assert "proven" in {c["outcome"] for c in published["conversions"]}
    assert published["choice"]["slo"] is None
    assert published["choice"]["naive"] is not None
    assert set(answer_of(published["curl"])) == outputs
