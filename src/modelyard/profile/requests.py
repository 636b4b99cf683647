"""Tensors -> the bytes of an Open Inference Protocol request, ready to be written to a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from modelyard.client import calls
from modelyard.client import tensors as wire
from modelyard.client.address import Address
from modelyard.client.inference import Inference
from modelyard.client.options import TransportOptions
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor, Tensors
from modelyard.domain.workload import Protocol

GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"


def encode(
    tensors: Tensors,
    protocol: Protocol,
    *,
    model: str,
    version: int,
    host: str,
    datatypes: Mapping[str, str] | None = None,
) -> bytes:
    """One inference request as `modelyard.client` writes it: a whole HTTP/1.1 request, or a `ModelInferRequest`.

    `host` is the value of the Host header; `datatypes`: inputs to send as BF16. Raises InvalidInput where the protocol
    cannot carry a tensor.
    """
    if protocol is Protocol.GRPC:
        return _grpc(tensors, model, version, datatypes or {})
    asked = Inference(inputs=tensors, binary=protocol is Protocol.HTTP_BINARY, datatypes=datatypes)
    try:
        call = calls.infer(model, version, None, asked)
    except InvalidInput as error:
        hint = f"{error.hint}; protocol http-binary sends binary tensors"
        raise InvalidInput(error.what, why=error.why, hint=hint) from error
    # no deadline: how long requests wait is what is measured
    call = msgspec.structs.replace(call, tells_deadline=False)
    writer = calls.Writer(Address.parse(f"http://{host}"), None, TransportOptions())
    return b"".join(writer.write(call, 0.0))


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


def mixed_payloads(groups: Sequence[Tensors], batch: int, count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """`count` requests of `batch` rows each, each drawn from one of `groups`, as often as it has rows.

    A group is what `batch_payloads` takes; groups differ in shape, and the rows of one request do not.
    """
    if len(groups) == 1:
        return batch_payloads(groups[0], batch, count, seed)
    rng = np.random.default_rng(seed)
    rows = np.array([len(next(iter(group.values()))) for group in groups])
    picks = rng.choice(len(groups), size=count, p=rows / rows.sum())
    drawn = [rng.integers(0, rows[pick], batch) for pick in picks]
    return [
        {name: array[places] for name, array in groups[pick].items()} for pick, places in zip(picks, drawn, strict=True)
    ]


def _grpc(tensors: Tensors, model: str, version: int, datatypes: Mapping[str, str]) -> bytes:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model, model_version=str(version))
    for name, tensor in tensors.items():
        datatype = wire.datatype_of(name, tensor, datatypes.get(name))
        request.inputs.add(name=name, datatype=datatype, shape=list(tensor.shape))
        request.raw_input_contents.append(bytes(wire.to_bytes(name, tensor, datatype)))
    data: bytes = request.SerializeToString()
    return data
