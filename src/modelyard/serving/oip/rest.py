"""The REST form of an inference request: JSON, binary tensors, and any mix of the two.

Extension: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
import struct
from math import prod
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import simdjson

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor
from modelyard.serving.http.head import NO_HEADER, Head
from modelyard.serving.oip import wire
from modelyard.serving.oip.buffers import numbers, python_may_read
from modelyard.serving.oip.forms import DATA_KEY, form_of
from modelyard.serving.oip.heads import FloatHead, InferHead, InputHead, WholeHead
from modelyard.serving.oip.plan import (
    PLANS_KEPT,
    Interface,
    Plan,
    from_region,
    make_plan,
    named,
    ordered,
)
from modelyard.serving.oip.regions import Regions
from modelyard.serving.oip.rendering import render, slow_elements

Body: TypeAlias = bytes | bytearray

SIMDJSON_ABOVE: Final = 4096
"""JSON bodies above this many bytes go through simdjson (3x32x32 tensor: 42 us against msgspec's 116)."""
_CACHED_HEAD_BYTES: Final = 2048

_decode_head = msgspec.json.Decoder(InferHead).decode
_decode_numbers = {
    FloatHead: msgspec.json.Decoder(FloatHead).decode,
    WholeHead: msgspec.json.Decoder(WholeHead).decode,
    None: None,
}
_encode = msgspec.json.Encoder().encode


class RestCodec:
    """`http.ports.Codec` of this protocol. `regions`: the shared memory that requests may refer to."""

    def __init__(self, regions: Regions | None = None) -> None:
        self._regions = regions

    def slow_bytes(self, interface: Interface, head: Head, body: Body) -> int:
        """All of it, or the head before binary tensors of numbers."""
        length = head.header_length
        return len(body) if length < 0 or interface.strings else length

    def decode(self, interface: Interface, head: Head, body: Body) -> tuple[Plan, tuple[Tensor, ...]]:
        """See `decode`."""
        length = head.header_length
        if type(body) is bytes:  # the common cases, one plain tensor in a text that is known, without calls
            if length == NO_HEADER:
                at = body.find(DATA_KEY) + len(DATA_KEY)
                form = interface.json_forms.get(body[:at])
                if form is not None and (tensor := form.tensor(body, at)) is not None:
                    return form.plan, (tensor,)
            elif length > 0:
                plan = interface.binary_plans.get(body[:length])
                if plan is not None and plan.only is not None and length + plan.binary_size == len(body):
                    item = plan.only
                    return plan, (np.ndarray(item.shape, item.dtype, body, length),)
        return decode(interface, length, body, self._regions)

    render = staticmethod(render)  # without a frame of their own
    slow_elements = staticmethod(slow_elements)


def decode(
    interface: Interface, header_length: int, body: Body, regions: Regions | None = None
) -> tuple[Plan, tuple[Tensor, ...]]:
    """Decode and check an inference request. Raises InvalidInput, NotFound, Unsupported."""
    if header_length == NO_HEADER:
        return _decode_json(interface, body, regions)
    if header_length == 0:
        return _decode_raw(interface, body)
    if header_length > len(body):
        raise InvalidInput("Inference-Header-Content-Length exceeds the size of the body")
    head = bytes(body[:header_length])
    plan = interface.binary_plans.get(head)
    if plan is not None:
        return plan, _binary_tensors(plan, header_length, body)
    parsed = _parse(head)
    plan = _plan(interface, parsed, regions)
    if any(i.size < 0 for i in plan.inputs):
        return plan, _mixed_tensors(plan, parsed, header_length, body)
    if header_length <= _CACHED_HEAD_BYTES and plan.lasting and not plan.id:
        remember(interface.binary_plans, head, plan)
    return plan, _binary_tensors(plan, header_length, body)


def _plan(interface: Interface, head: InferHead, regions: Regions | None) -> Plan:
    """A head's plan: that of an equal one before, but for the id, or a new one."""
    inputs = head.inputs
    wishes = b""
    key: tuple[object, ...]
    if len(inputs) == 1 and not head.outputs and not head.parameters and not (only := inputs[0]).parameters:
        key = (only.name, only.datatype, *only.shape)
    else:
        wishes = _encode((head.outputs, head.parameters, [i.parameters for i in inputs]))
        key = (wishes, *[(i.name, i.datatype, *i.shape) for i in inputs])
    kept = interface.json_plans.get(key)
    if kept is None:
        plan = make_plan(interface, head, regions)
        if plan.lasting and len(wishes) <= _CACHED_HEAD_BYTES:
            remember(interface.json_plans, key, named(plan, "") if plan.id else plan)
        return plan
    return named(kept, head.id) if head.id else kept


def remember(cache: dict[Any, Any], key: object, plan: object) -> None:
    """Keep a plan or form; a full cache starts anew."""
    if len(cache) >= PLANS_KEPT:
        cache.clear()
    cache[key] = plan


def _parse(body: Body) -> InferHead:
    try:
        return _decode_head(body) if len(body) <= SIMDJSON_ABOVE else _parse_large(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if python_may_read(body, error):
            return _parse_tolerant(body)
        raise _unparsable(error) from None


def _parse_tolerant(body: Body) -> InferHead:
    """Parse numbers that only Python's parser takes: bare NaN and Infinity, which are no JSON, and large ones."""
    try:
        plain = json.loads(body)
        _encode(plain)  # refuses the halves of surrogate pairs, which only this parser lets through
        return msgspec.convert(plain, InferHead)
    except (ValueError, TypeError, RecursionError) as error:
        raise _unparsable(error) from None


def _unparsable(error: Exception) -> InvalidInput:
    return InvalidInput(f"failed to parse the request JSON buffer: {error}")


def _decode_json(interface: Interface, body: Body, regions: Regions | None) -> tuple[Plan, tuple[Tensor, ...]]:
    head: InferHead | None = None
    decode_numbers = _decode_numbers[interface.json_head]
    if decode_numbers is not None and len(body) <= SIMDJSON_ABOVE:
        try:
            head = decode_numbers(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            head = None  # nested, or wrong: the general way says so
    numbers = head is not None
    if head is None:
        head = _parse(body)
    plan = _plan(interface, head, regions)
    if numbers and len(plan.inputs) == 1:
        item, data = plan.inputs[0], head.inputs[0].data
        if item.pack is not None and data is not None:
            try:  # the common case: numbers that fit, without the general checks
                tensor: Tensor = np.ndarray(item.shape, item.dtype, item.pack(*data))
            except (struct.error, OverflowError):
                pass  # not as many as the shape says, or beyond the datatype
            else:
                if plan.lasting and not plan.id and type(body) is bytes:
                    form = form_of(plan, item, data, body)
                    if form is not None:
                        remember(interface.json_forms, form.before, form)
                return plan, (tensor,)
    return plan, _mixed_tensors(plan, head, len(body), body)


def _mixed_tensors(plan: Plan, head: InferHead, start: int, body: Body) -> tuple[Tensor, ...]:
    if start + plan.binary_size != len(body):
        raise _excess(plan, start, body)
    tensors: list[Tensor] = []
    for item, given in zip(plan.inputs, head.inputs, strict=True):
        if item.region is not None:
            tensors.append(from_region(item, item.region))
        elif item.size < 0:
            tensors.append(wire.from_json(item.name, item.datatype, item.shape, given.data))
        else:
            tensors.append(wire.from_bytes(item.name, item.datatype, item.shape, body, start, item.size, copy=False))
            start += item.size
    return ordered(plan, tensors)


def _binary_tensors(plan: Plan, start: int, body: Body) -> tuple[Tensor, ...]:
    if start + plan.binary_size != len(body):
        raise _excess(plan, start, body)
    if plan.only is not None:
        return (np.ndarray(plan.only.shape, plan.only.dtype, body, start),)
    tensors: list[Tensor] = []
    for item in plan.inputs:
        tensors.append(wire.from_bytes(item.name, item.datatype, item.shape, body, start, item.size, copy=False))
        start += item.size
    return ordered(plan, tensors)


def _excess(plan: Plan, start: int, body: Body) -> InvalidInput:
    return InvalidInput(
        f"unexpected size of binary tensors: the inputs of model '{plan.interface.name}' declare {plan.binary_size} "
        f"bytes after the JSON, the body has {len(body) - start}"
    )


def _decode_raw(interface: Interface, body: Body) -> tuple[Plan, tuple[Tensor, ...]]:
    """The whole body is the one input's tensor of one row; at most one dimension besides the batch may be open."""
    specs = interface.signature.inputs
    if len(specs) != 1:
        raise InvalidInput(
            f"raw binary input needs a model with one input, '{interface.name}' has {len(specs)}",
            hint="send the JSON header with Inference-Header-Content-Length set to its length",
        )
    (spec,) = specs
    shape = [d if isinstance(d, int) else 1 for d in spec.shape]
    size = len(body)
    if spec.datatype == "BYTES":
        if prod(shape) != 1:
            raise InvalidInput(f"raw binary input of BYTES needs one element, input '{spec.name}' has {prod(shape)}")
        body = len(body).to_bytes(4, "little") + bytes(body)
        size = len(body)
    else:
        first = 1 if interface.batched else 0
        free = [i for i, d in enumerate(spec.shape) if isinstance(d, str) and i >= first]
        row = prod(shape) * wire.WIRE_BYTES[spec.datatype]
        if len(free) == 1 and row and size % row == 0:
            shape[free[0]] = size // row
    head = InferHead(
        inputs=[InputHead(spec.name, str(spec.datatype), shape, {"binary_data_size": size})],
        parameters={"binary_data_output": True},
    )
    plan = make_plan(interface, head)
    return plan, _binary_tensors(plan, 0, body)


def _parse_large(body: Body) -> InferHead:
    """Parse a large body by simdjson, numbers straight into buffers."""
    try:
        document = simdjson.Parser().parse(bytes(body))
    except (ValueError, MemoryError, RuntimeError) as error:  # RuntimeError: too deep, or a number beyond 64 bits
        if python_may_read(body, error):
            return _parse_tolerant(body)
        raise _unparsable(error) from None
    if not isinstance(document, simdjson.Object):
        raise InvalidInput("failed to parse the request JSON buffer: Expected `object`")
    plain: dict[str, Any] = {}
    for key in document:
        value = document[key]
        if key == "inputs" and isinstance(value, simdjson.Array):
            plain[key] = [_plain_input(item) for item in value]
        else:
            plain[key] = _plain(value)
    return msgspec.convert(plain, InferHead)


def _plain(value: Any) -> Any:
    if isinstance(value, simdjson.Object):
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def _plain_input(item: Any) -> Any:
    if not isinstance(item, simdjson.Object):
        return _plain(item)
    plain = {key: _plain(item[key]) for key in item if key != "data"}
    if "data" in item:
        plain["data"] = _numbers(item["data"], str(plain.get("datatype", "")))
    return plain


def _numbers(data: Any, datatype: str) -> Any:
    """A flat buffer of the array's numbers where it holds nothing else, else plain Python values."""
    dtype = wire.NUMPY.get(datatype)
    if dtype is None or not isinstance(data, simdjson.Array):
        return _plain(data)
    found = numbers(data, dtype)
    return data.as_list() if found is None else found[0]
