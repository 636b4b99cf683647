"""Every error has its HTTP status and gRPC code."""

from __future__ import annotations

import importlib
import pkgutil

import grpc
import pytest

from modelyard import serving
from modelyard.domain.errors import ModelyardError, Unavailable
from modelyard.serving import faults
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
