"""Tensors as the Open Inference Protocol (V2) puts them on the wire: JSON and the binary tensor extension."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import msgspec
import numpy as np

from modelyard.domain.errors import BackendFailed, InvalidInput
from modelyard.domain.tensors import Datatype, Dim, Signature, Tensor, Tensors, TensorSpec

HEADER_LENGTH = "Inference-Header-Content-Length"


class Parameters(msgspec.Struct, omit_defaults=True):
    """The parameters that say where a tensor's bytes are."""

    binary_data_size: int | None = None
    binary_data: bool | None = None


class WireTensor(msgspec.Struct, omit_defaults=True):
    """One tensor: its data here, or in the binary part after the JSON."""

    name: str
    datatype: Datatype
    shape: list[int]
    parameters: Parameters | None = None
    data: object = None


class RequestedOutput(msgspec.Struct, omit_defaults=True):
    """An output the client wants."""

    name: str
    parameters: Parameters | None = None


class RequestParameters(msgspec.Struct, omit_defaults=True):
    """Parameters of a request."""

    binary_data_output: bool = False


class InferRequest(msgspec.Struct, omit_defaults=True):
    """The JSON part of a request."""

    inputs: list[WireTensor]
    parameters: RequestParameters = msgspec.field(default_factory=RequestParameters)
    outputs: list[RequestedOutput] | None = None


class InferResponse(msgspec.Struct):
    """The JSON part of a response."""

    outputs: list[WireTensor]
    model_name: str = ""


class MetadataTensor(msgspec.Struct):
    """One input or output in a model's metadata; -1 is a dimension of any size."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    """A model's metadata."""

    name: str
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]


def encode_request(
    tensors: Tensors, *, binary: bool = True, outputs: Sequence[str] | None = None
) -> tuple[bytes, int | None]:
    """A request's body, and the length of its JSON part (None: it is all JSON).

    Raises InvalidInput for a dtype that no protocol carries, and for NaN or infinity in JSON.
    """
    parts: list[bytes] = []
    inputs = []
    for name, tensor in tensors.items():
        datatype = Datatype.of(tensor.dtype)
        wire = WireTensor(name, datatype, list(tensor.shape))
        if binary:
            content = _to_bytes(tensor, datatype)
            parts.append(content)
            wire.parameters = Parameters(binary_data_size=len(content))
        else:
            wire.data = _to_json(name, tensor, datatype)
        inputs.append(wire)
    wanted = [RequestedOutput(name) for name in outputs] if outputs is not None else None
    head = msgspec.json.encode(InferRequest(inputs, RequestParameters(binary), wanted))
    return (b"".join((head, *parts)), len(head)) if binary else (head, None)


def decode_response(body: bytes, head_length: int | None) -> dict[str, Tensor]:
    """The outputs in a response, by name, in its order. Raises BackendFailed if it breaks the protocol."""
    length = len(body) if head_length is None else head_length
    try:
        head = msgspec.json.decode(body[:length], type=InferResponse)
        offset = length
        tensors: dict[str, Tensor] = {}
        for wire in head.outputs:
            size = wire.parameters.binary_data_size if wire.parameters else None
            if size is None:
                tensors[wire.name] = _from_json(wire)
            else:
                if offset + size > len(body):
                    raise ValueError(f"output '{wire.name}' is cut off")
                tensors[wire.name] = _from_bytes(body[offset : offset + size], wire)
                offset += size
    except (msgspec.DecodeError, ValueError, TypeError, struct.error) as error:
        raise BackendFailed("the service's answer breaks the protocol", why=str(error)) from error
    return tensors


def signature_of(metadata: ModelMetadata) -> Signature:
    """The signature that metadata describes.

    The protocol does not name dimensions: a first one of any size is `batch`, others get a name of their own.
    """

    def spec(tensor: MetadataTensor) -> TensorSpec:
        shape: list[Dim] = []
        for position, size in enumerate(tensor.shape):
            free = "batch" if position == 0 else f"{tensor.name}_{position}"
            shape.append(free if size < 0 else size)
        return TensorSpec(tensor.name, tensor.datatype, tuple(shape))

    return Signature(tuple(map(spec, metadata.inputs)), tuple(map(spec, metadata.outputs)))


def _element(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _to_bytes(tensor: Tensor, datatype: Datatype) -> bytes:
    if datatype is not Datatype.BYTES:
        return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes()
    elements = [_element(value) for value in tensor.ravel().tolist()]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def _to_json(name: str, tensor: Tensor, datatype: Datatype) -> object:
    if datatype is Datatype.BYTES:
        try:
            return [_element(value).decode() for value in tensor.ravel().tolist()]
        except UnicodeDecodeError as error:
            raise InvalidInput(f"input '{name}' is not text", hint="send it as binary tensors") from error
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise InvalidInput(f"input '{name}' has NaN or infinity, which JSON cannot carry", hint="send binary tensors")
    return tensor.ravel().tolist()


def _from_bytes(content: bytes, wire: WireTensor) -> Tensor:
    if wire.datatype is not Datatype.BYTES:
        # A copy, so that the caller may write to it and the body can be freed.
        return np.frombuffer(content, wire.datatype.numpy.newbyteorder("<")).reshape(wire.shape).copy()
    elements, offset = [], 0
    while offset < len(content):
        (size,) = struct.unpack_from("<I", content, offset)
        if offset + 4 + size > len(content):
            raise ValueError(f"output '{wire.name}' is cut off")
        elements.append(content[offset + 4 : offset + 4 + size])
        offset += 4 + size
    return _objects(elements, wire.shape)


def _from_json(wire: WireTensor) -> Tensor:
    flat = _flatten(wire.data)
    if wire.datatype is Datatype.BYTES:
        return _objects([_element(value) for value in flat], wire.shape)
    return np.array(flat, wire.datatype.numpy).reshape(wire.shape)


def _objects(elements: list[bytes], shape: list[int]) -> Tensor:
    if len(elements) != math.prod(shape):
        raise ValueError(f"{len(elements)} elements do not fill shape {shape}")
    tensor = np.empty(len(elements), np.object_)
    tensor[:] = elements
    return tensor.reshape(shape)


def _flatten(data: object) -> list[object]:
    if not isinstance(data, list):
        raise TypeError("a tensor has no data")
    if not data or not isinstance(data[0], list):
        return data
    return [value for row in data for value in _flatten(row)]
