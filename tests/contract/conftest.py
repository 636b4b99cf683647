"""The places that the hub's contract runs over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modelyard.hub import Hub
from tests.contract.hub_content import Clock, Place


@pytest.fixture(params=["sqlite-local", "postgresql-s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty hub: each kind of database and each kind of blob store."""
    with _place(request, tmp_path, *request.param.split("-")) as found:
        yield found


@pytest.fixture(params=["sqlite-local", "postgresql-local", "sqlite-s3", "postgresql-s3"])
def every_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty hub, over each pair: for what takes both to be right together."""
    with _place(request, tmp_path, *request.param.split("-")) as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def database_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """An empty hub, over each kind of database: for what the blob store has no part in."""
    with _place(request, tmp_path, request.param, "local") as found:
        yield found


@contextmanager
def _place(request: pytest.FixtureRequest, directory: Path, database: str, store: str) -> Iterator[Place]:
    database_url = f"sqlite:///{directory}/hub.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    blobs_url = str(directory / "blobs") if store == "local" else request.getfixturevalue("s3_url")
    clock = Clock()
    with Hub.open(database_url, blobs_url, directory / "cache", clock) as hub:
        yield Place(hub, database_url, blobs_url, directory, clock)
