"""Fixtures: a scripted server, and each client in turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.client.scripted import DRIVERS, Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(params=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    driver = DRIVERS[request.param]()
    yield driver
    driver.close()
