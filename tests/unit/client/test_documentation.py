"""docs/client.md says what there is, and nothing else."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import modelyard.client
from modelyard.client import AsyncClient, Client, RetryPolicy, Tls, TransportOptions

PAGE = (Path(__file__).parents[3] / "docs/client.md").read_text(encoding="utf-8")


def calls(kind: type) -> dict[str, inspect.Signature]:
    return {name: inspect.signature(value) for name, value in vars(kind).items() if not name.startswith("_")}


def first_cells(title: str) -> set[str]:
    [table] = [t for t in PAGE.split("\n\n") if t.startswith(f"| {title} |")]
    cells = (line.split("|")[1] for line in table.splitlines()[2:])
    return {word for cell in cells for word in re.findall(r"`([^`]+)`", cell)}


def test_every_public_name_is_documented() -> None:
    assert {name for name in modelyard.client.__all__ if f"`{name}" not in PAGE} == set()


def test_every_call_is_documented_and_no_other() -> None:
    assert {name.partition("(")[0] for name in first_cells("call")} == set(calls(Client))


def test_both_clients_have_the_same_calls() -> None:
    assert calls(Client) == calls(AsyncClient)
    assert inspect.signature(Client.__init__).parameters.keys() == inspect.signature(AsyncClient).parameters.keys() | {
        "self"
    }


def test_every_option_of_an_inference_is_documented_and_no_other() -> None:
    assert first_cells("option") == set(calls(Client)["infer"].parameters) - {"self", "model", "inputs"}


@pytest.mark.parametrize("kind", [Tls, TransportOptions, RetryPolicy])
def test_every_option_is_documented_with_its_default(kind: type) -> None:
    assert first_cells(f"`{kind.__name__}` | default") == {field.name for field in fields(kind)}
    [table] = [t for t in PAGE.split("\n\n") if t.startswith(f"| `{kind.__name__}` | default |")]
    for field in fields(kind):
        if isinstance(field.default, float | int) and not isinstance(field.default, bool):
            [line] = [line for line in table.splitlines() if f"`{field.name}`" in line.split("|")[1]]
            assert f"{field.default:.12g}" in line.split("|")[2]
