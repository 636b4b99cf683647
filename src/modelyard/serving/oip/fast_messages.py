"""ModelInfer's messages without protobuf's classes, where a request is like one before: only its numbers are new.

The generated path (`messages`) checks every request of a new kind. What it found is remembered by the message's bytes
up to the first tensor's: a message that begins with the same bytes and has the same length and the same tensor sizes
says the same but for the tensors' values. The id is cut out, so that unique ids change nothing. Everything unusual
(typed contents, parameters, shared memory, BYTES, BF16, fields out of order) always takes the generated path.
Wire format: https://protobuf.dev/programming-guides/encoding/; the fields: inference.ModelInferRequest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from modelyard.domain.tensors import Tensor
from modelyard.serving.grpc.ports import Decoded
from modelyard.serving.models.dataplane import DataPlane
from modelyard.serving.models.target import Target
from modelyard.serving.oip import wire
from modelyard.serving.oip.messages import InferCodec, decode, parse
from modelyard.serving.oip.plan import PLANS_KEPT, NamedPlan, Plan, Template, named, ordered
from modelyard.serving.oip.rest import remember
from modelyard.serving.scheduling.executor import Executor

# requests: `number << 3 | 2` of fields that are length-delimited
_MODEL_NAME: Final = 0x0A
_MODEL_VERSION: Final = 0x12
_ID: Final = 0x1A
_INPUT: Final = 0x2A
_OUTPUT: Final = 0x32
_RAW: Final = 0x3A
_IN_HEAD: Final = frozenset((_MODEL_NAME, _MODEL_VERSION, _INPUT, _OUTPUT))
_HEAD_BYTES: Final = 4096
"""Longer heads are not remembered."""
_NO_ID: Final = b""


class Layout(NamedTuple):
    """Where a request's parts are. `key`: all before the first tensor's bytes, but for the id."""

    key: bytes
    id: bytes
    places: tuple[tuple[int, int], ...]
    """Start and size of the tensors."""


class Known(NamedTuple):
    """A kind of request: where it goes, its tensors' sizes, what stands between them, and how long that all is."""

    target: Target
    sizes: tuple[int, ...]
    between: tuple[bytes, ...]
    tail: int


class FastInferCodec(InferCodec):
    """ModelInfer: `grpc.ports.InferenceCodec`; the same as `InferCodec`, faster. Event-loop thread only."""

    def __init__(self, plane: DataPlane) -> None:
        super().__init__(plane)
        self._known: dict[bytes, Known] = {}
        self._heads: dict[int, int] = {}
        """The length of the head of the last message of a length, ids apart."""

    def decode(self, message: bytes) -> tuple[Executor, Plan, tuple[Tensor, ...]]:
        """See `grpc.ports.InferenceCodec`."""
        start = self._heads.get(len(message))
        if start is not None:
            key = message[:start]
            known = self._known.get(key)
            if (
                known is not None
                and known.tail == len(message) - start
                and (not known.between or _between_fits(message, start, known))
            ):
                executor = known.target.pick()
                plan = executor.interface.json_plans.get(key)
                if plan is not None:
                    inputs = plan.inputs
                    if len(inputs) == 1:
                        item = inputs[0]
                        return executor, plan, (np.ndarray(item.shape, item.dtype, message, start),)
                    return executor, plan, _tensors(plan, message, _places(known, start))
                return self._decode_by_fields(message, executor)
        return self._decode_by_fields(message, None)

    def slow(self, message: bytes) -> Callable[[], Decoded] | None:
        """See `grpc.ports.InferenceCodec`; what is like a message before is not."""
        start = self._heads.get(len(message))
        return None if start is not None and message[:start] in self._known else super().slow(message)

    def _decode_by_fields(self, message: bytes, executor: Executor | None) -> tuple[Executor, Plan, tuple[Tensor, ...]]:
        """`executor`: the one that was picked already. A request is picked for once: canaries count."""
        layout = read_layout(message)
        if layout is None:
            return self._decode_all(message, executor)
        known = self._known.get(layout.key)
        if known is not None and known.sizes == tuple(size for _, size in layout.places):
            executor = executor or known.target.pick()
            plan = executor.interface.json_plans.get(layout.key)
            if plan is not None:
                if layout.id:
                    try:
                        plan = named(plan, layout.id.decode())
                    except UnicodeDecodeError:
                        return self._decode_all(message, executor)
                else:
                    self._note_length(message, layout)
                return executor, plan, _tensors(plan, message, layout.places)
        executor, plan, tensors = self._decode_all(message, executor)
        self._remember(message, layout, executor, plan)
        return executor, plan, tensors

    def _decode_all(self, message: bytes, executor: Executor | None) -> tuple[Executor, Plan, tuple[Tensor, ...]]:
        if executor is None:
            return super().decode(message)
        plan, tensors = decode(executor.interface, parse(pb.ModelInferRequest, message), self._plane.regions)
        return executor, plan, tensors

    def _remember(self, message: bytes, layout: Layout, executor: Executor, plan: Plan) -> None:
        sizes = tuple(size for _, size in layout.places)
        if (
            plan.wishes is not None
            or not plan.lasting
            or len(layout.key) > _HEAD_BYTES
            or sizes != tuple(i.count * i.dtype.itemsize if i.plain else -1 for i in plan.inputs)
        ):
            return
        name, version = _addressee(layout.key)
        if len(self._known) >= PLANS_KEPT:
            self._known.clear()
            self._heads.clear()
        ends = [start + size for start, size in layout.places]
        between = tuple(message[end:start] for end, (start, _) in zip(ends, layout.places[1:], strict=False))
        tail = ends[-1] - layout.places[0][0]
        self._known[layout.key] = Known(self._plane.target(name, version), sizes, between, tail)
        remember(executor.interface.json_plans, layout.key, named(plan, "") if plan.id else plan)
        if not layout.id:
            self._note_length(message, layout)

    def _note_length(self, message: bytes, layout: Layout) -> None:
        if len(self._heads) >= PLANS_KEPT:
            self._heads.clear()
        self._heads[len(message)] = layout.places[0][0]

    def encode(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """See `grpc.ports.InferenceCodec`."""
        wanted = plan.outputs
        if plan.wishes is not None or not wanted:
            return super().encode(plan, outputs, start, stop)
        if plan.interface.batched:
            parts = [outputs[i][start:stop] for i, _ in wanted]
        else:
            parts = [outputs[i] for i, _ in wanted]
        owner = plan.base if type(plan) is NamedPlan else plan
        template = owner.template
        if template is None or template.shapes != tuple([p.shape for p in parts]):
            template = owner.template = _template(plan, parts)
        if template.fixed is not None and not plan.id:
            return template.fixed + parts[0].tobytes()
        specs = plan.interface.signature.outputs
        lead, described = template.parts
        pieces = [lead, _field(_ID, plan.id.encode()) if plan.id else _NO_ID, described]
        for (index, _), part in zip(wanted, parts, strict=True):
            raw = wire.to_bytes(part, specs[index].datatype)
            pieces.append(b"\x32" + varint(len(raw)))
            pieces.append(raw)
        return b"".join(pieces)


def read_layout(message: bytes) -> Layout | None:
    """The parts of a ModelInferRequest as clients write it; None where it is unusual, or no such message.

    Usual: every field length-delimited and known, in the order of their numbers, no parameters, one or more raw inputs.
    """
    at, size, last = 0, len(message), 0
    id_start = id_stop = first = 0
    places: list[tuple[int, int]] = []
    while at < size:
        tag, begin = message[at], at
        if tag < last or (tag == last and tag in (_MODEL_NAME, _MODEL_VERSION, _ID)):
            return None
        last = tag
        at += 1
        length = shift = 0
        while True:
            if at >= size or shift > 28:
                return None
            byte = message[at]
            at += 1
            length |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        if tag == _RAW:
            first = first or at
            places.append((at, length))
        elif tag == _ID:
            id_start, id_stop = begin, at + length
        elif tag not in _IN_HEAD:
            return None
        at += length
    if at != size or not places:
        return None
    if id_stop:
        return Layout(message[:id_start] + message[id_stop:first], _id(message, id_start, id_stop), tuple(places))
    return Layout(message[:first], _NO_ID, tuple(places))


def _id(message: bytes, start: int, stop: int) -> bytes:
    """The content of a length-delimited field."""
    start += 1
    while message[start] > 127:
        start += 1
    return message[start + 1 : stop]


def _addressee(key: bytes) -> tuple[str, str]:
    """The model's name and version in a head that has been read before."""
    found = {_MODEL_NAME: "", _MODEL_VERSION: ""}
    at = 0
    while at < len(key) and key[at] in found:
        tag = key[at]
        at += 1
        length = shift = 0
        while key[at] > 127:
            length |= (key[at] & 127) << shift
            shift += 7
            at += 1
        length |= key[at] << shift
        at += 1
        found[tag] = key[at : at + length].decode()
        at += length
    return found[_MODEL_NAME], found[_MODEL_VERSION]


def _between_fits(message: bytes, start: int, known: Known) -> bool:
    """Whether the tensors behind the first are where they are in all messages of this kind."""
    at = start
    for size, between in zip(known.sizes, known.between, strict=False):
        at += size
        if not message.startswith(between, at):
            return False
        at += len(between)
    return True


def _places(known: Known, start: int) -> list[tuple[int, int]]:
    places = [(start, known.sizes[0])]
    for size, between in zip(known.sizes[1:], known.between, strict=True):
        start, before = places[-1]
        places.append((start + before + len(between), size))
    return places


def _tensors(
    plan: Plan, message: bytes, places: tuple[tuple[int, int], ...] | list[tuple[int, int]]
) -> tuple[Tensor, ...]:
    return ordered(
        plan,
        [
            np.ndarray(item.shape, item.dtype, message, start)
            for item, (start, _) in zip(plan.inputs, places, strict=True)
        ],
    )


def varint(number: int) -> bytes:
    """A protobuf varint."""
    if number < 128:
        return bytes((number,))
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _field(tag: int, value: bytes) -> bytes:
    """A length-delimited field; nothing where it is empty, as proto3 has it."""
    return bytes((tag,)) + varint(len(value)) + value if value else b""


def _template(plan: Plan, parts: list[Tensor]) -> Template:
    """The constant parts of a response: before the id, and the described outputs behind it."""
    face = plan.interface
    lead = _field(0x0A, face.name.encode()) + _field(0x12, str(face.version).encode())
    described = b""
    for (index, _), part in zip(plan.outputs, parts, strict=True):
        spec = face.signature.outputs[index]
        shape = b"".join(map(varint, part.shape))
        output = _field(0x0A, spec.name.encode()) + _field(0x12, str(spec.datatype).encode()) + _field(0x1A, shape)
        described += b"\x2a" + varint(len(output)) + output
    fixed: bytes | None = None
    index = plan.outputs[0][0]
    if len(parts) == 1 and face.signature.outputs[index].datatype not in ("BYTES", "BF16"):
        fixed = lead + described + b"\x32" + varint(parts[0].nbytes)
    return Template(tuple([p.shape for p in parts]), (lead, described), fixed)
