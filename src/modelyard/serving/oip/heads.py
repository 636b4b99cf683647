"""The JSON of an inference request, but for what its tensors mean."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

Parameters: TypeAlias = dict[str, str | int | float | bool | None]


class InputHead(msgspec.Struct):
    """One input of a request as JSON has it; `data` is absent for binary tensors."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: Any = None


class FloatInput(InputHead):
    """The same, of a model that takes nothing but fractional numbers: anything else is no flat list of them."""

    data: list[float] | None = None


class WholeInput(InputHead):
    """The same, of a model that takes nothing but whole numbers."""

    data: list[int] | None = None


class OutputHead(msgspec.Struct):
    """One requested output."""

    name: str
    parameters: Parameters | None = None


class InferHead(msgspec.Struct):
    """The JSON of an inference request."""

    inputs: list[InputHead]
    id: str | None = ""
    outputs: list[OutputHead] | None = None
    parameters: Parameters | None = None


class FloatHead(InferHead):
    """The JSON of an inference request to a model that takes nothing but fractional numbers."""

    inputs: list[FloatInput]  # type: ignore[assignment] # read only


class WholeHead(InferHead):
    """The JSON of an inference request to a model that takes nothing but whole numbers."""

    inputs: list[WholeInput]  # type: ignore[assignment] # read only
