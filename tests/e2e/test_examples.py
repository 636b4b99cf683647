"""publish without an SLO, end to end: the other examples. What is fastest is theirs to find and not judged here."""

from __future__ import annotations

import pytest

from modelyard.convert import cpu_flags
from tests.e2e.conftest import Trained, YardCli, answer_of

BF16 = any(flag in cpu_flags() for flag in ("amx_bf16", "avx512_bf16"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "extra", "outputs"),
    [
        ("multi_io", (), {"label", "probabilities"}),
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
