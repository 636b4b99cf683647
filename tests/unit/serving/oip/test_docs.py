"""The page about the protocol says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from tritonclient.grpc import service_pb2

from modelyard.domain.errors import ModelyardError
from modelyard.domain.tensors import Datatype
from modelyard.serving.faults import STATUS
from modelyard.serving.oip.control import READERS
from modelyard.serving.oip.logs import LogSettings
from modelyard.serving.oip.stream import MOST_HELD

PAGE = (Path(__file__).parents[4] / "docs" / "protocols.md").read_text()


def test_every_method_of_the_service_is_named():
    (service,) = service_pb2.DESCRIPTOR.services_by_name.values()
    assert {m.name for m in service.methods if f"`{m.name}`" not in PAGE} == set()


def test_every_datatype_setting_and_log_setting_is_named():
    assert {d for d in Datatype if not re.search(rf"^\|.*\b{d}\b.*\|", PAGE, re.MULTILINE)} == set()
    assert {name for name in READERS if f"`{name}`" not in PAGE} == set()
    assert {name for name in LogSettings.__struct_fields__ if f"`{name}`" not in PAGE} == set()
    assert f"up to {MOST_HELD} requests run at once" in PAGE


def test_the_table_of_errors_is_that_of_the_code():
    rows = {
        line.split("|")[1].strip(): line.split("|")[2] for line in PAGE.splitlines() if re.match(r"\| \d{3} ", line)
    }
    for kind, (status, code) in STATUS.items():
        if kind is not ModelyardError and status != 403:
            assert code in rows[str(status)], kind
