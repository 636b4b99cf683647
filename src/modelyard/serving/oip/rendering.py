"""The REST form of an inference response: JSON, binary tensors, and any mix of the two, out of templates.

Extension: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/extension_binary_data.md
"""

from __future__ import annotations

import msgspec

from modelyard.domain.tensors import Datatype, Tensor
from modelyard.serving.oip import wire
from modelyard.serving.oip.answers import Answer, answers
from modelyard.serving.oip.plan import NamedPlan, Plan, Template

_encode = msgspec.json.Encoder().encode


def render(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
    """Header lines and body of the response for rows `start:stop` of a batch's outputs.

    `outputs` are in the signature's order. Raises InvalidInput for what JSON cannot carry.
    """
    if plan.wishes is not None:
        return _render_answers(plan, answers(plan, outputs, start, stop))
    wanted = plan.outputs
    if len(wanted) != 1:
        return _render_several(plan, outputs, start, stop)
    index, binary = wanted[0]  # one output, the common case, without lists
    part = outputs[index][start:stop] if plan.interface.batched else outputs[index]
    owner = plan.base if type(plan) is NamedPlan else plan
    template = owner.template
    if template is None or template.shapes[0] != part.shape:
        template = owner.template = _template(plan, [part], (part.shape,))
    if template.fixed is not None and not plan.id:
        return template.fixed + part.tobytes()
    if binary:
        return _render_mixed(plan, template, [part])
    before, after = template.parts
    if plan.id:
        before = _with_id(before, template, plan.id)
    data = _encode(part.ravel().tolist()) if template.numbers else b"n"
    if b"n" in data:  # null: a number that is not finite; or no plain numbers at all
        spec = plan.interface.signature.outputs[index]
        data = wire.json_array(spec.name, part, spec.datatype)
    return b"%b%d\r\n\r\n%b%b%b" % (_JSON_HEAD, len(before) + len(data) + len(after), before, data, after)


def _render_several(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
    wanted, batched = plan.outputs, plan.interface.batched
    parts = [outputs[i][start:stop] if batched else outputs[i] for i, _ in wanted]
    owner = plan.base if type(plan) is NamedPlan else plan
    template = owner.template
    shapes = tuple([p.shape for p in parts])
    if template is None or template.shapes != shapes:
        template = owner.template = _template(plan, parts, shapes)
    if template.fixed is not None and not plan.id:
        return b"".join([template.fixed, *[p.tobytes() for p in parts]])
    return _render_mixed(plan, template, parts)


def _render_mixed(plan: Plan, template: Template, parts: list[Tensor]) -> bytes:
    specs = plan.interface.signature.outputs
    pieces: list[bytes] = []
    tail: list[bytes] = []
    for (index, binary), part, before in zip(plan.outputs, parts, template.parts, strict=False):
        pieces.append(before if pieces or not plan.id else _with_id(before, template, plan.id))
        if binary:
            data = wire.to_bytes(part, specs[index].datatype)
            tail.append(data)
            pieces.append(b"%d" % len(data))
        else:
            pieces.append(wire.json_array(specs[index].name, part, specs[index].datatype))
    pieces.append(template.parts[-1])
    text = b"".join(pieces)
    if not tail:
        return b"%b%d\r\n\r\n%b" % (_JSON_HEAD, len(text), text)
    body = b"".join(tail)
    return _binary_head(len(text), len(body)) + text + body


def _with_id(lead: bytes, template: Template, request_id: str) -> bytes:
    """A response's first part with the id in it."""
    return b'%b,"id":%b%b' % (lead[: template.id_at], _encode(request_id), lead[template.id_at :])


class _OutputJson(msgspec.Struct, omit_defaults=True):
    """An output in the JSON of a response."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, str | int] = {}
    data: msgspec.Raw = msgspec.Raw()


class _ResponseJson(msgspec.Struct, omit_defaults=True):
    """The JSON of a response."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[_OutputJson] = []


def _render_answers(plan: Plan, found: list[Answer]) -> bytes:
    """Header lines and body where an output is not simply its values."""
    face = plan.interface
    written: list[_OutputJson] = []
    tail: list[bytes] = []
    for answer in found:
        one = _OutputJson(answer.name, answer.datatype, answer.shape)
        if answer.region is not None:
            slice_ = answer.region
            one.parameters = {
                "shared_memory_region": slice_.region.name,
                "shared_memory_byte_size": answer.size,
                "shared_memory_offset": slice_.offset,
            }
        elif answer.values is not None and answer.binary:
            tail.append(wire.to_bytes(answer.values, answer.datatype))
            one.parameters = {"binary_data_size": len(tail[-1])}
        elif answer.values is not None:
            one.data = msgspec.Raw(wire.json_array(answer.name, answer.values, answer.datatype))
        written.append(one)
    json_text = _encode(_ResponseJson(face.name, str(face.version), plan.id, written))
    if not tail:
        return b"%b%d\r\n\r\n%b" % (_JSON_HEAD, len(json_text), json_text)
    body = b"".join(tail)
    return _binary_head(len(json_text), len(body)) + json_text + body


_JSON_HEAD = b"Content-Type: application/json\r\nContent-Length: "


def _binary_head(text: int, binary: int) -> bytes:
    return (
        b"Content-Type: application/octet-stream\r\n"
        b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (text, text + binary)
    )


def _template(plan: Plan, parts: list[Tensor], shapes: tuple[tuple[int, ...], ...]) -> Template:
    interface = plan.interface
    lead = b'{"model_name":%b,"model_version":"%d"' % (_encode(interface.name), interface.version)
    id_at = len(lead)
    lead += b',"outputs":['
    pieces: list[bytes] = []
    for (index, binary), part in zip(plan.outputs, parts, strict=True):
        spec = interface.signature.outputs[index]
        lead += b'{"name":%b,"datatype":"%b","shape":%b,' % (
            _encode(spec.name),
            str(spec.datatype).encode(),
            _encode(part.shape),
        )
        lead += b'"parameters":{"binary_data_size":' if binary else b'"data":'
        pieces.append(lead)
        lead = b"}}," if binary else b"},"
    end = (lead[:-1] if pieces else lead) + b"]}"
    fixed: bytes | None = None
    if plan.fixed:
        text = b"".join(before + b"%d" % part.nbytes for before, part in zip(pieces, parts, strict=True)) + end
        fixed = _binary_head(len(text), sum(p.nbytes for p in parts)) + text
    specs = interface.signature.outputs
    numbers = all(specs[index].datatype not in (Datatype.BYTES, Datatype.BF16) for index, _ in plan.outputs)
    return Template(shapes, (*pieces, end), fixed, numbers, id_at)


def slow_elements(plan: Plan, outputs: list[Tensor], rows: int, batch_rows: int) -> int:
    """How many elements of a response are JSON or strings, to decide where to render it."""
    return sum(
        outputs[i].size * rows // max(batch_rows, 1)
        for i, binary in plan.outputs
        if not binary or outputs[i].dtype.kind == "O"
    )
