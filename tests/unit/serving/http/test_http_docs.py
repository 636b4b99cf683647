"""The page about HTTP in lockstep with the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from modelyard.serving.http.chunks import FREE_CHUNKS, MEAN_CHUNK_BYTES
from modelyard.serving.http.compression import COMPRESSED_FROM
from modelyard.serving.http.head import _NUMBERS
from modelyard.serving.http.limits import Limits
from modelyard.serving.http.percall import MAX_ID

PAGE = (Path(__file__).parents[4] / "docs" / "http.md").read_text()


def test_every_limit_is_documented_with_its_value_and_no_other():
    section = PAGE.partition("## Limits")[2].partition("\n## ")[0]
    written = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE))
    limits = Limits()
    assert set(written) == {field.name for field in fields(Limits)}
    for name, value in written.items():
        if name != "max_connections":
            assert float(value) == getattr(limits, name), name
    assert f"| chunks | {FREE_CHUNKS} of any size |" in section
    assert f"below {MEAN_CHUNK_BYTES} bytes" in section


def test_every_header_is_documented():
    for name in ("traceparent", "tracestate", "X-Request-Id", *_NUMBERS.values()):
        assert f"`{name}`" in PAGE
    assert f"{MAX_ID} visible characters" in PAGE
    assert f"{COMPRESSED_FROM // 1024} KiB and more" in PAGE
