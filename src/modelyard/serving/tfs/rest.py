"""The REST form of predict, classify and regress (https://www.tensorflow.org/tfx/serving/api_rest)."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import simdjson

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Tensor, TensorSpec, from_bf16, to_bf16
from modelyard.serving.http.head import Head
from modelyard.serving.oip import wire
from modelyard.serving.oip.buffers import arrays_in, numbers, python_may_read
from modelyard.serving.oip.plan import Interface, Plan
from modelyard.serving.tfs import heads
from modelyard.serving.tfs.plan import TfsPlan, check_names, plan_of
from modelyard.serving.tfs.tensors import element_count, nested_shape

Body: TypeAlias = bytes | bytearray
Json: TypeAlias = Any
"""A parsed JSON value; where simdjson parsed it, arrays may be its proxies."""

SIMDJSON_ABOVE: Final = 4096
_HEAD: Final = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _JsonCodec:
    """What the three verbs share: JSON in, JSON out."""

    def slow_bytes(self, interface: Interface, head: Head, body: Body) -> int:  # noqa: ARG002 - Codec's
        """All of it."""
        return len(body)

    def slow_elements(self, plan: Plan, outputs: list[Tensor], rows: int, batch_rows: int) -> int:
        """How many numbers the answer has."""
        return sum(outputs[i].size * rows // max(batch_rows, 1) for i, _ in plan.outputs)


class PredictCodec(_JsonCodec):
    """`:predict`, by row (`instances`) and by column (`inputs`)."""

    def decode(self, interface: Interface, head: Head, body: Body) -> tuple[Plan, tuple[Tensor, ...]]:  # noqa: ARG002
        """See `http.ports.Codec`."""
        request = parse(body)
        if ("instances" in request) == ("inputs" in request):
            wrong = "Both" if "inputs" in request else "Missing"
            raise InvalidInput(
                f"{wrong} 'inputs' or 'instances' key", hint='send {"instances": [...]} or {"inputs": ...}'
            )
        signature = text(request, "signature_name")
        by_row = "instances" in request
        named = _by_row(interface, request["instances"]) if by_row else _by_column(interface, request["inputs"])
        check_names(interface, named)
        brackets = body.count(b"[") if len(named) == 1 else 0
        tensors = {s.name: _tensor(s, named[s.name], brackets) for s in interface.signature.inputs}
        return plan_of(interface, tensors, signature, by_row=by_row)

    def render(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """See `http.ports.Codec`."""
        interface = plan.interface
        values: dict[str, Json] = {}
        for index, _ in plan.outputs:
            spec = interface.signature.outputs[index]
            part = outputs[index][start:stop] if interface.batched else outputs[index]
            values[spec.name] = _values(spec, part)
        single = next(iter(values.values())) if len(values) == 1 else None
        if isinstance(plan, TfsPlan) and plan.by_row:
            return _answer("predictions", single if single is not None else _rows(interface, values))
        return _answer("outputs", single if single is not None else values)


class ClassifyCodec(_JsonCodec):
    """`:classify`: examples in, label and score of every class out."""

    def decode(self, interface: Interface, head: Head, body: Body) -> tuple[Plan, tuple[Tensor, ...]]:  # noqa: ARG002
        """See `http.ports.Codec`."""
        heads.classified(interface)
        return _examples(interface, body)

    def render(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """See `http.ports.Codec`."""
        return _answer("result", heads.classes(plan, outputs, start, stop))


class RegressCodec(_JsonCodec):
    """`:regress`: examples in, a number per example out."""

    def decode(self, interface: Interface, head: Head, body: Body) -> tuple[Plan, tuple[Tensor, ...]]:  # noqa: ARG002
        """See `http.ports.Codec`."""
        heads.regressed(interface)
        return _examples(interface, body)

    def render(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """See `http.ports.Codec`."""
        return _answer("result", heads.numbers(plan, outputs, start, stop))


# --- request


def parse(body: Body) -> Mapping[str, Json]:
    """The JSON object of a request; bare NaN and Infinity are taken. Raises InvalidInput."""
    try:
        request = _decode(body) if len(body) <= SIMDJSON_ABOVE else simdjson.Parser().parse(bytes(body))
    except (ValueError, RuntimeError, MemoryError) as error:  # RuntimeError: too deep, or a number beyond 64 bits
        request = _tolerant(body, error)
    if isinstance(request, simdjson.Object):
        return {key: request[key] for key in request}
    if not isinstance(request, dict):
        raise InvalidInput("JSON Value is not an object", hint='send {"instances": [...]} or {"inputs": ...}')
    return request


def _tolerant(body: Body, error: Exception) -> Json:
    """What strict parsers refuse may still be numbers that JSON has no words for."""
    if not python_may_read(body, error):
        raise InvalidInput(f"JSON Parse error: {error}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise InvalidInput(f"JSON Parse error: {problem}") from None


def text(request: Mapping[str, Json], key: str) -> str:
    """An optional string of a request. Raises InvalidInput."""
    value = request.get(key, "")
    if not isinstance(value, str):
        raise InvalidInput(f"'{key}' key must be a string value.")
    return value


def plain(value: Json) -> Json:
    """A value in Python's own types."""
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _is_binary(value: Json) -> bool:
    return isinstance(value, (dict, simdjson.Object)) and list(value.keys()) == ["b64"]


def _only_input(interface: Interface, data: Json) -> dict[str, Json]:
    specs = interface.signature.inputs
    if len(specs) != 1:
        raise InvalidInput(
            f"model '{interface.name}' has {len(specs)} inputs, the request names none",
            hint=f"send an object with {', '.join(s.name for s in specs)}",
        )
    return {specs[0].name: data}


def _by_row(interface: Interface, instances: Json) -> dict[str, Json]:
    if not isinstance(instances, (list, simdjson.Array)) or not len(instances):
        raise InvalidInput("'instances' must be a non-empty list of rows")
    first = instances[0]
    if not isinstance(first, (dict, simdjson.Object)) or _is_binary(first):
        return _only_input(interface, instances)
    columns: dict[str, list[Json]] = {name: [] for name in first}
    for row in plain(instances):
        if not isinstance(row, dict) or row.keys() != columns.keys():
            raise InvalidInput("the instances of a request must be objects with the same keys")
        for name, value in row.items():
            columns[name].append(value)
    return dict(columns)


def _by_column(interface: Interface, inputs: Json) -> dict[str, Json]:
    if isinstance(inputs, (dict, simdjson.Object)) and not _is_binary(inputs):
        return {name: inputs[name] for name in inputs}
    return _only_input(interface, inputs)


def _tensor(spec: TensorSpec, data: Json, brackets: int) -> Tensor:
    if isinstance(data, simdjson.Array) and spec.datatype is not Datatype.BYTES:
        fast = _buffered(spec, data, brackets)
        if fast is not None:
            return fast
    data = plain(data)
    shape = nested_shape(data)
    flat = data if isinstance(data, list) else [data]
    if spec.datatype is Datatype.BYTES:
        flat = _strings(spec.name, flat)
        if len(flat) != element_count(shape):
            raise InvalidInput(f"the rows of input '{spec.name}' have different lengths")
        return wire.object_array(flat).reshape(shape)
    return wire.from_json(spec.name, str(spec.datatype), shape, flat)


def _buffered(spec: TensorSpec, data: Any, brackets: int) -> Tensor | None:
    """Numbers straight from simdjson's tape; None where only the general way can judge.

    Here the shape is the arrays' own, so an array in place of a number matters: it shows in the brackets of the body.
    """
    found = numbers(data, spec.datatype.numpy)
    if found is None or arrays_in(found[1]) != brackets:
        return None
    return wire.from_json(spec.name, str(spec.datatype), found[1], found[0])


def _strings(name: str, data: Json) -> list[bytes]:
    """The flat elements of nested JSON strings and `{"b64": ...}` objects."""
    if isinstance(data, list):
        return [element for value in data for element in _strings(name, value)]
    if isinstance(data, str):
        return [data.encode()]
    if _is_binary(data):
        return [binary(name, data["b64"])]
    raise InvalidInput(f"input '{name}' takes strings", why='expected "..." or {"b64": "..."}')


def binary(name: str, value: Json) -> bytes:
    """The bytes of a `{"b64": value}`. Raises InvalidInput."""
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidInput(f"Unable to base64 decode a value of '{name}'", why=str(error)) from None


def _examples(interface: Interface, body: Body) -> tuple[Plan, tuple[Tensor, ...]]:
    request = {key: plain(value) for key, value in parse(body).items()}
    examples = request.get("examples")
    if not isinstance(examples, list):
        raise InvalidInput("When method is classify or regress, 'examples' must be a list of objects")
    context = _features(request.get("context", {}))
    rows = [_features(example) for example in examples]
    return plan_of(interface, heads.tensors_of(interface, rows, context), text(request, "signature_name"))


def _features(example: Json) -> dict[str, Sequence[Any]]:
    if not isinstance(example, dict):
        raise InvalidInput("Example must be a JSON object")
    return {name: _feature(name, value) for name, value in example.items()}


def _feature(name: str, value: Json) -> Sequence[Any]:
    values = value if isinstance(value, list) else [value]
    if any(isinstance(v, str) or _is_binary(v) for v in values):
        return _strings(name, values)
    if not all(isinstance(v, (int, float)) for v in values):
        raise InvalidInput(f"feature '{name}' must be numbers or strings, or a list of them")
    return values


# --- response


def _values(spec: TensorSpec, part: Tensor) -> Json:
    """A tensor as nested JSON; outputs named `*_bytes` are binary."""
    if spec.datatype is Datatype.BYTES:
        return _text_values(spec.name, part.tolist(), spec.name.endswith("_bytes"))
    return (from_bf16(to_bf16(part)) if spec.datatype is Datatype.BF16 else part).tolist()


def _text_values(name: str, values: Json, binary: bool) -> Json:
    if isinstance(values, list):
        return [_text_values(name, value, binary) for value in values]
    if binary:
        return {"b64": b64encode(values).decode("ascii")}
    try:
        return values.decode()
    except UnicodeDecodeError:
        raise InvalidInput(
            f"output '{name}' is not UTF-8 text", hint="name an output *_bytes to get it as base64, or use gRPC"
        ) from None


def _rows(interface: Interface, columns: dict[str, Json]) -> list[dict[str, Json]]:
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise InvalidInput(
            f"the outputs of model '{interface.name}' have no rows in common", hint='ask by column: {"inputs": ...}'
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _answer(key: str, value: Json) -> bytes:
    body = _encode({key: value})
    # msgspec writes null for what is not finite; null comes from nothing else
    if b"null" in body:
        body = json.dumps({key: value}, separators=(",", ":"), ensure_ascii=False).encode()
    return _HEAD % (len(body), body)
