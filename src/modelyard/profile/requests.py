"""Tensors -> the bytes of an Open Inference Protocol request, ready to be written to a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Tensor, Tensors
from modelyard.domain.workload import Protocol

GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"


def encode(tensors: Tensors, protocol: Protocol, *, model: str, version: int, host: str) -> bytes:
    """One inference request: a whole HTTP/1.1 request, or a serialised `ModelInferRequest`.

    `host` is the value of the Host header. Raises InvalidInput where the protocol cannot carry a tensor.
    """
    if protocol is Protocol.GRPC:
        return _grpc(tensors, model, version)
    path = f"/v2/models/{model}/versions/{version}/infer"
    if protocol is Protocol.HTTP_BINARY:
        head, raw = _binary_parts(tensors)
        return _http(path, host, head + b"".join(raw), f"Inference-Header-Content-Length: {len(head)}\r\n")
    return _http(path, host, _json(tensors), "")


def batch_payloads(rows: Tensors, batch: int, count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """`count` requests of `batch` rows each, drawn with replacement from `rows` (arrays of equal length).

    Real rows, so that services whose time depends on the content are measured on what they will see.
    """
    lengths = {len(array) for array in rows.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise InvalidInput("payload arrays must have the same number of rows, at least one")
    rng = np.random.default_rng(seed)
    picks = [rng.integers(0, min(lengths), batch) for _ in range(count)]
    return [{name: array[pick] for name, array in rows.items()} for pick in picks]


def _http(path: str, host: str, body: bytes, extra: str) -> bytes:
    kind = "application/octet-stream" if extra else "application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _binary_parts(tensors: Tensors) -> tuple[bytes, Sequence[bytes]]:
    raw = [raw_bytes(tensor) for tensor in tensors.values()]
    inputs = [
        {**_described(name, tensor), "parameters": {"binary_data_size": len(data)}}
        for (name, tensor), data in zip(tensors.items(), raw, strict=True)
    ]
    return msgspec.json.encode({"inputs": inputs, "parameters": {"binary_data_output": True}}), raw


def _json(tensors: Tensors) -> bytes:
    return msgspec.json.encode(
        {"inputs": [{**_described(name, t), "data": _json_data(name, t)} for name, t in tensors.items()]}
    )


def _described(name: str, tensor: Tensor) -> Mapping[str, object]:
    return {"name": name, "datatype": str(Datatype.of(tensor.dtype)), "shape": list(tensor.shape)}


def _json_data(name: str, tensor: Tensor) -> list[object]:
    if Datatype.of(tensor.dtype) is Datatype.BYTES:
        try:
            return [_as_bytes(element).decode() for element in tensor.reshape(-1)]
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"input '{name}' is not text, which JSON cannot carry", why=str(error), hint="use protocol http-binary"
            ) from error
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        raise InvalidInput(f"input '{name}' has NaN or infinity, which JSON cannot carry", hint="use http-binary")
    data: list[object] = tensor.reshape(-1).tolist()
    return data


def _grpc(tensors: Tensors, model: str, version: int) -> bytes:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model, model_version=str(version))
    for name, tensor in tensors.items():
        request.inputs.add(name=name, datatype=str(Datatype.of(tensor.dtype)), shape=list(tensor.shape))
        request.raw_input_contents.append(raw_bytes(tensor))
    data: bytes = request.SerializeToString()
    return data


def raw_bytes(tensor: Tensor) -> bytes:
    """Little-endian, row-major bytes of a tensor; `BYTES` elements each have a u32 length before them."""
    if Datatype.of(tensor.dtype) is Datatype.BYTES:
        elements = [_as_bytes(element) for element in tensor.reshape(-1)]
        return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<")).tobytes()


def _as_bytes(element: object) -> bytes:
    return element if isinstance(element, bytes) else str(element).encode()
