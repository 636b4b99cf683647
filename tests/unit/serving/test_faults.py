"""Every error has its HTTP status and gRPC code."""

from __future__ import annotations

import importlib
import pkgutil

import grpc
import pytest

from modelyard import serving
from modelyard.domain.errors import ModelyardError, Unavailable
from modelyard.serving import faults
from modelyard.serving.faults import for_clients, status_of, text_of, without_paths
from modelyard.serving.http.router import REASONS

for module in pkgutil.walk_packages(serving.__path__, "modelyard.serving."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)  # so that every subclass is known, whichever tests ran before


def leaves(kind):
    return {kind}.union(*map(leaves, kind.__subclasses__()))


@pytest.mark.parametrize("kind", sorted(leaves(ModelyardError), key=lambda k: k.__name__))
def test_every_error_is_mapped(kind):
    if kind.__module__.startswith(("modelyard.domain", "modelyard.serving")):
        assert kind in faults.STATUS
        status, code = faults.STATUS[kind]
        assert status in REASONS
        assert code in grpc.StatusCode.__members__


def test_overload_is_429_and_says_when_to_come_back():
    error = Unavailable("busy", retry_after_s=0.2)
    assert faults.status_of(error) == (429, "RESOURCE_EXHAUSTED")
    assert faults.retry_after_header(error) == "1"
    assert faults.status_of(Unavailable("loading")) == (503, "UNAVAILABLE")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("there is no file /srv/models/a/model.onnx", "there is no file .../model.onnx"),
        ("Load model from /srv/a/m.onnx failed:Protobuf", "Load model from .../m.onnx failed:Protobuf"),
        ("Invalid format in: `/tmp/gar/m.ubj`.", "Invalid format in: `.../m.ubj`."),
        ("/workspace/src/c_api.cc:1532: Check failed", ".../c_api.cc:1532: Check failed"),
        ("in /home/Jo Doe/My models/x.pt, or ('/a/b')", "in .../x.pt, or ('.../b')"),
        ("use and/or, 3/4, FP32/INT8, m/1.json, http://host:80/v2/models", None),
    ],
)
def test_clients_read_no_paths_of_the_server(text, told):
    assert without_paths(text) == (text if told is None else told)


def test_an_error_for_clients_keeps_its_kind_and_has_the_whole_one_as_its_cause():
    error = Unavailable("no /a/b", why="see /c/d", hint="look at /e/f", retry_after_s=3.0)
    told = for_clients(error)
    assert text_of(told) == "no .../b: see .../d (look at .../f)"
    assert status_of(told) == status_of(error)
    assert told.__cause__ is error
    assert str(error) == "no /a/b: see /c/d"
