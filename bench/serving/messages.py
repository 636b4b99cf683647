"""Requests as bytes in each protocol and form, and answers back to arrays."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.serving.systems import JsonForm
from modelyard.domain.tensors import Tensors
from modelyard.domain.workload import Protocol
from modelyard.profile.requests import encode

INFER = "/inference.GRPCInferenceService/ModelInfer"
_LENGTH = "Inference-Header-Content-Length"


class WrongAnswer(Exception):
    """A system refused a request, or answered something else than the model's output; the message says which."""


@dataclass(frozen=True, slots=True)
class Message:
    """One request: for REST the body and its headers, for gRPC the serialised message."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def message(tensors: Tensors, protocol: Protocol, form: JsonForm, model: str) -> Message:
    """One request of `tensors`."""
    if protocol is Protocol.HTTP_JSON and form is JsonForm.FIELDS:
        fields = {name: np.asarray(array).tolist() for name, array in tensors.items()}
        return Message(msgspec.json.encode(fields), {"Content-Type": "application/json"})
    whole = encode(tensors, protocol, model=model, version=1, host="bench")
    if protocol is Protocol.GRPC:
        # the profiler names the version; not every peer knows versions, so nobody is asked for one
        return Message(_without_version(whole))
    head, _, body = whole.partition(b"\r\n\r\n")
    given = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return Message(body, {name: given[name] for name in ("Content-Type", _LENGTH) if name in given})


def _without_version(whole: bytes) -> bytes:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest.FromString(whole)
    request.model_version = ""
    encoded: bytes = request.SerializeToString()
    return encoded


def framed(body: bytes) -> bytes:
    """A gRPC message with its five bytes of frame head."""
    return b"\0" + len(body).to_bytes(4, "big") + body


def ask_rest(port: int, path: str, request: Message, timeout_s: float = 10.0) -> tuple[bytes, Mapping[str, str]]:
    """One POST. Raises OSError or WrongAnswer (any status but 200)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("POST", path, request.body, dict(request.headers))
        response = connection.getresponse()
        body = response.read()
    except http.client.HTTPException as error:
        raise WrongAnswer(f"no HTTP answer ({type(error).__name__})") from error
    finally:
        connection.close()
    if response.status != 200:
        raise WrongAnswer(f"HTTP {response.status}: {body[:160].decode(errors='replace')}")
    return body, {name.lower(): value for name, value in response.getheaders()}


def ask_grpc(port: int, request: Message, timeout_s: float = 10.0) -> bytes:
    """One unary call; the serialised response. Raises WrongAnswer with the status."""
    import grpc

    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        call = channel.unary_unary(INFER, request_serializer=None, response_deserializer=None)
        try:
            answer: bytes = call(request.body, timeout=timeout_s)
        except grpc.RpcError as error:
            raise WrongAnswer(f"gRPC {error.code().name}: {error.details()[:160]}") from error
        return answer


def array_of(body: bytes, headers: Mapping[str, str], form: JsonForm) -> NDArray[np.float32]:
    """The output `y`, flat, of a REST answer. Raises WrongAnswer where there is none."""
    try:
        length = headers.get(_LENGTH.lower())
        if length is not None and int(length) < len(body):
            return np.frombuffer(body[int(length) :], np.float32)
        answer = msgspec.json.decode(body)
        if form is JsonForm.OIP:
            answer = answer["outputs"][0]["data"]
        elif isinstance(answer, dict):
            answer = answer["y"]
        return np.asarray(answer, np.float32).ravel()
    except (msgspec.DecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise WrongAnswer(f"no output in {body[:100]!r} ({type(error).__name__})") from error


def array_of_grpc(body: bytes) -> NDArray[np.float32]:
    """The output `y`, flat, of a gRPC answer. Raises WrongAnswer where there is none."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tritonclient.grpc import service_pb2

    try:
        answer: Any = service_pb2.ModelInferResponse.FromString(body)
    except DecodeError as error:
        raise WrongAnswer("the answer is no ModelInferResponse") from error
    if not answer.raw_output_contents and not answer.outputs:
        raise WrongAnswer("the answer has no output")
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    return np.asarray(answer.outputs[0].contents.fp32_contents, np.float32)


def compare(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Raises WrongAnswer where an answer is not the in-process runtime's, to the last few bits of float32.

    Not bit for bit: batch mates change the order of summation in the runtime itself.
    """
    if found.shape != expected.shape:
        raise WrongAnswer(f"{found.size} values instead of {expected.size}")
    difference = float(np.abs(found - expected).max())
    if not difference <= 1e-4 * max(float(np.abs(expected).max()), 1e-3):
        raise WrongAnswer(f"values differ by {difference:.2g}")
