"""What one kind of inference request asks for, checked once and reused.

A client sends the same names, datatypes, shapes and wishes again and again; only the numbers change. So the checked
meaning of a request head is a Plan, cached by the head's bytes (binary tensors) or its shape (JSON), and it also
keeps the constant parts of the response.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from modelyard.domain.errors import InvalidInput, NotFound, Unsupported
from modelyard.domain.tensors import Datatype, Signature, Tensor, TensorSpec
from modelyard.serving.oip import wire
from modelyard.serving.oip.heads import FloatHead, Parameters, WholeHead
from modelyard.serving.oip.heads import InferHead as InferHead
from modelyard.serving.oip.heads import InputHead as InputHead
from modelyard.serving.oip.heads import OutputHead as OutputHead
from modelyard.serving.oip.regions import Regions, RegionSlice

if TYPE_CHECKING:
    from modelyard.serving.oip.forms import Form

_FLOATS: Final = {Datatype.FP16: "e", Datatype.FP32: "f", Datatype.FP64: "d"}
_WHOLES: Final = {
    Datatype.INT8: "b", Datatype.INT16: "h", Datatype.INT32: "i", Datatype.INT64: "q",
    Datatype.UINT8: "B", Datatype.UINT16: "H", Datatype.UINT32: "I", Datatype.UINT64: "Q",
}  # fmt: skip
_PACKED: Final = _FLOATS | _WHOLES
"""How `struct` names them."""


class Interface:
    """What a served model version takes and gives, as the protocol shows it, and its plan caches."""

    __slots__ = (
        "batched", "binary_plans", "classes", "input_index", "json_forms", "json_head", "json_plans", "name",
        "output_index", "signature", "strings", "version",
    )  # fmt: skip

    def __init__(self, name: str, version: int, signature: Signature, classes: tuple[str, ...] = ()) -> None:
        self.name = name
        self.classes = classes
        """Labels of a classifier's output columns, where the operator gave them."""
        self.version = version
        self.signature = signature
        self.batched = signature.batched  # kept: working it out costs 2 us, too much for every response
        self.strings = any(spec.datatype is Datatype.BYTES for spec in signature.inputs)
        """Whether an input is BYTES: these are read one by one, in whatever form."""
        self.json_head = _json_head(signature)
        """How the JSON of its requests is parsed the fast way, where its inputs are all of one kind of number."""
        self.input_index = {spec.name: i for i, spec in enumerate(signature.inputs)}
        self.output_index = {spec.name: i for i, spec in enumerate(signature.outputs)}
        self.binary_plans: dict[bytes, Plan] = {}
        self.json_plans: dict[object, Plan] = {}
        self.json_forms: dict[bytes, Form] = {}
        """By what stands before the numbers."""


def _json_head(signature: Signature) -> type[FloatHead] | type[WholeHead] | None:
    datatypes = {spec.datatype for spec in signature.inputs}
    if datatypes <= _FLOATS.keys():
        return FloatHead
    return WholeHead if datatypes <= _WHOLES.keys() else None


_MOST_PACKED: Final = 4096
"""Elements that are packed one by one; larger tensors come out of simdjson as an array."""
PLANS_KEPT: Final = 512
"""Plans cached per model and kind; when full the cache starts anew (requests with unique ids would fill it)."""


@dataclass(slots=True)
class InputPlan:
    """One input of a plan: `size` is its bytes in the body, -1 when its data is JSON or in shared memory.

    `plain`: its bytes on the wire are those of an array of `dtype` (not so for BYTES and BF16).
    """

    index: int
    name: str
    datatype: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    count: int
    size: int
    plain: bool = True
    region: RegionSlice | None = None
    pack: Callable[..., bytes] | None = None
    """Makes the bytes of as many Python numbers as the tensor has elements, in less time than numpy takes."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a requested output shall be besides its values: the best `classes` (0: no), placed in shared memory."""

    classes: int = 0
    region: RegionSlice | None = None


@dataclass(slots=True)
class Template:
    """The constant parts of a response for given output shapes.

    `parts[i]` stands before output i's value; the last part ends the JSON; an id goes into the first at `id_at`. For an
    all-binary response of fixed sizes without an id `fixed` is everything before the tensors' bytes, HTTP head
    included. `numbers`: no output is BYTES or BF16.
    """

    shapes: tuple[tuple[int, ...], ...]
    parts: tuple[bytes, ...]
    fixed: bytes | None
    numbers: bool = False
    id_at: int = 0


class Plan:
    """A checked request head. `outputs` pairs output indices with whether each is wanted as binary.

    `wishes` goes along with `outputs` and is None in the common case that no output has any. `fixed`: all outputs are
    binary, and their bytes are those of their arrays. `lasting`: it may be kept for later requests of the same head.
    """

    __slots__ = (
        "binary_size", "fixed", "id", "inputs", "interface", "lasting", "only", "outputs", "priority", "rows",
        "shape_key", "template", "timeout_s", "wishes",
    )  # fmt: skip

    def __init__(
        self,
        interface: Interface,
        request_id: str,
        inputs: tuple[InputPlan, ...],
        outputs: tuple[tuple[int, bool], ...],
        timeout_s: float | None,
        priority: int = 0,
        wishes: tuple[Wish | None, ...] | None = None,
    ) -> None:
        self.priority = priority
        self.wishes = wishes
        specs = interface.signature.outputs
        self.fixed = (
            wishes is None
            and bool(outputs)
            and all(binary and specs[i].datatype not in (Datatype.BYTES, Datatype.BF16) for i, binary in outputs)
        )
        self.lasting = not any(i.region for i in inputs) and not any(w and w.region for w in wishes or ())
        self.interface = interface
        self.id = request_id
        self.inputs = inputs
        self.only = inputs[0] if len(inputs) == 1 and inputs[0].plain and inputs[0].region is None else None
        """The one input, where it is one and its bytes on the wire are its array's."""
        self.outputs = outputs
        self.timeout_s = timeout_s
        batched = interface.batched
        self.rows = inputs[0].shape[0] if batched and inputs else 1
        ordered = sorted(inputs, key=lambda i: i.index)
        self.shape_key = tuple(i.shape[1:] if batched else i.shape for i in ordered)
        self.binary_size = sum(i.size for i in inputs if i.size > 0)
        self.template: Template | None = None


class NamedPlan(Plan):
    """A plan that is kept (`base`), under the id of one request."""

    __slots__ = ("base",)

    def __init__(self, base: Plan, request_id: str) -> None:
        # one by one and without the checks: half the time of a loop over the names (a test compares)
        self.base = base
        self.id = request_id
        self.binary_size = base.binary_size
        self.fixed = base.fixed
        self.inputs = base.inputs
        self.interface = base.interface
        self.lasting = base.lasting
        self.only = base.only
        self.outputs = base.outputs
        self.priority = base.priority
        self.rows = base.rows
        self.shape_key = base.shape_key
        self.template = None
        self.timeout_s = base.timeout_s
        self.wishes = base.wishes


def named(plan: Plan, request_id: str) -> Plan:
    """The same plan under another id."""
    return NamedPlan(plan, request_id)


def make_plan(interface: Interface, head: InferHead, regions: Regions | None = None) -> Plan:
    """Check a request head against the model. `regions`: the shared memory that it may refer to.

    Raises InvalidInput with Triton's texts, NotFound for an unknown region, Unsupported.
    """
    parameters = head.parameters or {}
    if parameters.get("sequence_id"):
        raise Unsupported("sequence batching is not supported", hint="leave out sequence_id")
    inputs = tuple(_input_plan(interface, head, given, regions) for given in head.inputs)
    _check_inputs(interface, head, inputs)
    if interface.batched and inputs and inputs[0].shape[0] == 0:
        raise InvalidInput(
            f"{_who(head)}the batch dimension of input '{inputs[0].name}' is 0", hint="send 1 row or more"
        )
    outputs = _outputs(interface, head, parameters)
    wishes = _wishes(interface, head, regions)
    return Plan(interface, head.id or "", inputs, outputs, _timeout(parameters), _priority(parameters), wishes)


def _who(head: InferHead) -> str:
    """The prefix of Triton's texts, for a client that can tell requests apart by the id it gave."""
    return f"[request id: {head.id}] " if head.id else ""


def _input_plan(interface: Interface, head: InferHead, given: InputHead, regions: Regions | None) -> InputPlan:
    index = interface.input_index.get(given.name)
    if index is None:
        raise InvalidInput(
            f"{_who(head)}unexpected inference input '{given.name}' for model '{interface.name}'",
            hint=f"it takes {', '.join(interface.input_index)}",
        )
    spec = interface.signature.inputs[index]
    if given.datatype != spec.datatype:
        raise InvalidInput(
            f"{_who(head)}inference input '{given.name}' data-type is '{given.datatype}', "
            f"but model '{interface.name}' expects '{spec.datatype}'"
        )
    parameters = given.parameters or {}
    shape = tuple(given.shape)
    count = wire.elements(given.name, shape)
    size = parameters.get("binary_data_size")
    region = _region(head, parameters, f"input '{given.name}'", regions)
    if size is None:
        size = -1
    elif type(size) is not int or size < 0:
        raise InvalidInput(f"{_who(head)}'binary_data_size' of input '{given.name}' must be a non-negative integer")
    if given.data is not None and (size >= 0 or region is not None):
        other = "shared memory" if size < 0 else "'binary_data_size'"
        raise InvalidInput(f"{_who(head)}input '{given.name}' has both 'data' and {other}")
    if region is not None and size >= 0:
        raise InvalidInput(f"{_who(head)}input '{given.name}' has both 'binary_data_size' and shared memory")
    sent = region.size if region is not None else size
    want = count * wire.WIRE_BYTES[spec.datatype]
    if sent >= 0 and spec.datatype is not Datatype.BYTES and sent != want:
        raise InvalidInput(
            f"{_who(head)}input byte size mismatch for input '{given.name}' for model '{interface.name}'. "
            f"Expected {want}, got {sent}"
        )
    plain = spec.datatype not in (Datatype.BYTES, Datatype.BF16)
    dtype = wire.NUMPY[spec.datatype]
    packed = size < 0 and region is None and spec.datatype in _PACKED and count <= _MOST_PACKED
    pack = struct.Struct(f"<{count}{_PACKED[spec.datatype]}").pack if packed else None
    return InputPlan(index, spec.name, str(spec.datatype), shape, dtype, count, size, plain, region, pack)


def _region(head: InferHead, parameters: Parameters, whose: str, regions: Regions | None) -> RegionSlice | None:
    """The place in shared memory that a tensor's parameters name, if they do."""
    name = parameters.get("shared_memory_region")
    if name is None:
        return None
    if regions is None or regions.refusal:
        raise Unsupported(
            f"{_who(head)}shared memory is not available here",
            why=regions.refusal if regions is not None else "",
            hint="send the tensor in the message",
        )
    if type(name) is not str:
        raise InvalidInput(f"{_who(head)}'shared_memory_region' of {whose} must be a string")
    size = parameters.get("shared_memory_byte_size")
    offset = parameters.get("shared_memory_offset", 0)
    if type(size) is not int or type(offset) is not int:
        raise InvalidInput(
            f"{_who(head)}'shared_memory_byte_size' and 'shared_memory_offset' of {whose} must be integers"
        )
    return regions.slice(name, offset, size)


def _check_inputs(interface: Interface, head: InferHead, inputs: tuple[InputPlan, ...]) -> None:
    specs = interface.signature.inputs
    got = [i.name for i in inputs]
    missing = [s.name for s in specs if s.name not in got]
    if missing or len(got) != len(specs):
        raise InvalidInput(
            f"{_who(head)}expected {len(specs)} inputs but got {len(got)} inputs for model '{interface.name}'. "
            f"Got input(s) {got}, but missing required input(s) {missing}. Please provide all required input(s)."
        )
    sizes: dict[str, int] = {}
    for item in inputs:
        spec = specs[item.index]
        wrong = len(item.shape) != len(spec.shape)
        for want, have in zip(spec.shape, item.shape, strict=False):
            wrong |= have != (sizes.setdefault(want, have) if isinstance(want, str) else want)
        if wrong:
            raise InvalidInput(
                f"{_who(head)}unexpected shape for input '{item.name}' for model '{interface.name}'. "
                f"Expected {_dims(spec)}, got [{','.join(map(str, item.shape))}]"
            )


def _dims(spec: TensorSpec) -> str:
    return "[" + ",".join("-1" if isinstance(d, str) else str(d) for d in spec.shape) + "]"


def _outputs(interface: Interface, head: InferHead, parameters: Parameters) -> tuple[tuple[int, bool], ...]:
    default = _flag(head, parameters, "binary_data_output", False)
    if not head.outputs:
        return tuple((i, default) for i in range(len(interface.signature.outputs)))
    wanted: list[tuple[int, bool]] = []
    for output in head.outputs:
        index = interface.output_index.get(output.name)
        if index is None:
            raise InvalidInput(f"{_who(head)}unexpected inference output '{output.name}' for model '{interface.name}'")
        wanted.append((index, _flag(head, output.parameters or {}, "binary_data", default)))
    return tuple(wanted)


def _flag(head: InferHead, parameters: Parameters, name: str, default: bool) -> bool:
    value = parameters.get(name)
    if value is not None and type(value) is not bool:
        raise InvalidInput(f"{_who(head)}parameter '{name}' must be true or false")
    return default if value is None else value


def _wishes(interface: Interface, head: InferHead, regions: Regions | None) -> tuple[Wish | None, ...] | None:
    wishes: list[Wish | None] = []
    for output in head.outputs or ():
        parameters = output.parameters or {}
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise InvalidInput(f"{_who(head)}'classification' of output '{output.name}' must be a non-negative integer")
        region = _region(head, parameters, f"output '{output.name}'", regions)
        if classes:
            _check_classifiable(head, interface.signature.outputs[interface.output_index[output.name]])
            if region is not None:
                raise InvalidInput(f"{_who(head)}invalid to use both shared memory and classification on an output")
        wishes.append(Wish(classes, region) if classes or region is not None else None)
    return tuple(wishes) if any(wishes) else None


def _check_classifiable(head: InferHead, spec: TensorSpec) -> None:
    if spec.datatype in (Datatype.BYTES, Datatype.BOOL):
        raise InvalidInput(
            f"{_who(head)}class result not available for output due to unsupported type '{spec.datatype}'",
            hint=f"leave 'classification' out of output '{spec.name}'",
        )


def _timeout(parameters: Parameters) -> float | None:
    """Triton's `timeout` request parameter: microseconds the request may wait; 0 means no limit."""
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    try:
        if timeout.__class__ is bool:
            raise ValueError
        seconds = int(timeout) * 1e-6
    except (ValueError, OverflowError):
        raise InvalidInput("parameter 'timeout' must be whole microseconds") from None
    return seconds if seconds > 0 else None


def _priority(parameters: Parameters) -> int:
    """Triton's `priority` request parameter: 1 is first; 0 means the model's default."""
    priority = parameters.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise InvalidInput("parameter 'priority' must be a non-negative integer")
    return priority


def unknown_model(name: str, version: str = "") -> NotFound:
    """Triton's answer to a model that is not served."""
    which = f"'{name}' version {version}" if version else f"'{name}'"
    return NotFound(f"Request for unknown model: {which} is not found")


def from_region(item: InputPlan, region: RegionSlice) -> Tensor:
    """An input's tensor out of shared memory. Raises InvalidInput."""
    raw = region.read()
    if item.plain:
        return raw.view(item.dtype).reshape(item.shape)
    return wire.from_bytes(item.name, item.datatype, item.shape, raw.data, 0, region.size)


def ordered(plan: Plan, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Tensors of a request's inputs in the signature's order."""
    if len(tensors) == 1:
        return (tensors[0],)
    slots: list[Tensor] = [tensors[0]] * len(tensors)
    for item, tensor in zip(plan.inputs, tensors, strict=True):
        slots[item.index] = tensor
    return tuple(slots)
