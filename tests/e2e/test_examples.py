"""publish without an SLO, end to end: the compute-bound example. What is fastest is not judged here."""

from __future__ import annotations

import pytest

from modelyard.convert import cpu_flags
from tests.e2e.conftest import Trained, YardCli, answer_of

TARGET = "openvino:bf16" if any(flag in cpu_flags() for flag in ("amx_bf16", "avx512_bf16")) else "openvino"


@pytest.mark.timeout(600)
def test_resnet50_goes_live_in_its_fastest_precision(yard: YardCli, trained: Trained) -> None:
    published = yard.json("publish", str(trained("resnet50")), "--effort", "quick", "--to", TARGET)
    assert published["service"]["endpoint"]["http_port"] > 0
    assert "proven" in {c["outcome"] for c in published["conversions"]}
    assert published["choice"]["naive"] is not None
    assert set(answer_of(published["curl"])) == {"logits"}
