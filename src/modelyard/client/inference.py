"""An inference request and its answer: what the caller gives and gets, and their form on the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from modelyard.client import tensors as wire
from modelyard.client.responses import Body, Response, broken
from modelyard.client.tensors import Buffer
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.tensors import Tensor, Tensors

HEADER_LENGTH: Final = "Inference-Header-Content-Length"


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a model.

    `outputs`: which ones, None: all. `binary`: tensors as bytes, both ways; else JSON. `priority`: 1 is the highest, 0
    leaves it to the service. `classify`: of the named `outputs`, the top k classes instead of the tensors.
    `datatypes`: inputs to send as BF16.
    """

    inputs: Tensors
    outputs: Sequence[str] | None = None
    binary: bool = True
    priority: int | None = None
    request_id: str = ""
    classify: int | None = None
    datatypes: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """One class of a classification: its score, its index, and its label (empty where the model has none)."""

    score: float
    index: int
    label: str


@dataclass(frozen=True, slots=True)
class InferResult:
    """What a model answered. `outputs` by name, in the service's order; `id` is the request's, if it gave one."""

    outputs: dict[str, Tensor]
    model: str
    version: str
    id: str

    def __getitem__(self, name: str) -> Tensor:
        """One output. Raises NotFound."""
        try:
            return self.outputs[name]
        except KeyError:
            known = ", ".join(self.outputs)
            raise NotFound(f"the answer has no output '{name}'", hint=f"it has {known}") from None

    def classes(self, name: str) -> list[list[Classification]]:
        """The classes of an output asked for with `classify`, best first, for each row. Raises InvalidInput."""
        tensor = self[name]
        try:
            rows = tensor.reshape(-1, tensor.shape[-1]).tolist()
            return [[_classification(value) for value in row] for row in rows]
        except (ValueError, AttributeError, IndexError) as error:
            raise InvalidInput(f"output '{name}' is no classification", hint="infer(..., classify=k)") from error


def _classification(value: bytes) -> Classification:
    """Triton's text: `score:index` or `score:index:label`."""
    score, index, *label = value.decode().split(":", 2)
    return Classification(float(score), int(index), label[0] if label else "")


# --- messages


class _Parameters(msgspec.Struct, omit_defaults=True):
    binary_data_size: int | None = None


class _OutputParameters(msgspec.Struct, omit_defaults=True):
    classification: int | None = None


class _RequestParameters(msgspec.Struct, omit_defaults=True):
    binary_data_output: bool = False
    priority: int | None = None


class _Input(msgspec.Struct, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: _Parameters | None = None
    data: list[object] | None = None


class _RequestedOutput(msgspec.Struct, omit_defaults=True):
    name: str
    parameters: _OutputParameters | None = None


class _Request(msgspec.Struct, omit_defaults=True):
    inputs: list[_Input]
    id: str = ""
    parameters: _RequestParameters | None = None
    outputs: list[_RequestedOutput] | None = None


class _Output(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: _Parameters | None = None
    data: object = None


class _Answer(msgspec.Struct):
    outputs: list[_Output]
    model_name: str | None = None
    model_version: str | int | None = None
    id: str | None = None


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Answer).decode


def encode(asked: Inference) -> tuple[list[Buffer], int | None]:
    """The parts of a request's body, and the length of its JSON (None: it is all JSON).

    Raises InvalidInput for what the protocol cannot carry.
    """
    parts: list[Buffer] = [b""]
    inputs: list[_Input] = []
    datatypes, binary = asked.datatypes or {}, asked.binary
    for name, value in asked.inputs.items():
        tensor = np.asarray(value)
        datatype = wire.datatype_of(name, tensor, datatypes.get(name))
        if binary:
            content = wire.to_bytes(name, tensor, datatype)
            parts.append(content)
            inputs.append(_Input(name, datatype, tensor.shape, _Parameters(len(content))))
        else:
            inputs.append(_Input(name, datatype, tensor.shape, None, wire.to_json(name, tensor, datatype)))
    if datatypes and (unknown := [name for name in datatypes if name not in asked.inputs]):
        raise InvalidInput(f"datatypes names no input: {', '.join(unknown)}")
    parameters = _RequestParameters(binary, asked.priority) if binary or asked.priority is not None else None
    head = _encode(_Request(inputs, asked.request_id, parameters, _requested(asked)))
    parts[0] = head
    return parts, len(head) if binary else None


def _requested(asked: Inference) -> list[_RequestedOutput] | None:
    if asked.outputs is None:
        if asked.classify is not None:
            raise InvalidInput(
                "classify needs the outputs to classify", hint="infer(..., outputs=['scores'], classify=3)"
            )
        return None
    parameters = None if asked.classify is None else _OutputParameters(asked.classify)
    return [_RequestedOutput(name, parameters) for name in asked.outputs]


def decode(response: Response) -> InferResult:
    """The result in a successful response. Raises BackendFailed if it breaks the protocol."""
    body, json_length = response.body, response.head.json_length
    at = len(body) if json_length is None else json_length
    if at > len(body):
        raise broken(f"{HEADER_LENGTH} is {at}, the body has {len(body)} bytes")
    answer = _parse(body[:at])
    outputs: dict[str, Tensor] = {}
    try:
        for output in answer.outputs:
            size = None if output.parameters is None else output.parameters.binary_data_size
            if size is None:
                outputs[output.name] = wire.from_json(output.datatype, output.shape, output.data)
                continue
            if size < 0 or at + size > len(body):
                raise ValueError("its bytes are cut off")
            outputs[output.name] = wire.from_bytes(output.datatype, output.shape, body[at : at + size])
            at += size
    except (ValueError, TypeError, OverflowError) as error:
        raise broken(f"output '{output.name}': {error}") from error
    if at != len(body):
        raise broken(f"{len(body) - at} bytes belong to no output")
    if len(outputs) != len(answer.outputs):
        raise broken("two outputs of one name")
    version = "" if answer.model_version is None else str(answer.model_version)
    return InferResult(outputs, answer.model_name or "", version, answer.id or "")


def _parse(text: Body) -> _Answer:
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        first = error
    try:
        # Some servers write bare NaN and Infinity, which is no JSON; the standard library reads them.
        return msgspec.convert(json.loads(bytes(text)), _Answer)
    except (ValueError, RecursionError):
        raise broken(str(first)) from first
