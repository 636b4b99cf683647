"""Tensors that want to hurt: row T24."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as triton

from bench.faults.result import Options, Result
from bench.isolation_cost import artifact
from modelyard.client import NO_RETRIES, AsyncClient
from modelyard.domain.configuration import Batching
from modelyard.domain.errors import ModelyardError
from modelyard.domain.services import ServedModel
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from tests.serving_harness import RunningReplica, replica, scripted

MATES = 7
METHOD = "/inference.GRPCInferenceService/ModelInfer"
LENGTHS = (0, 1, 4, -1, -(2**63), 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, 1.5, "4", None)
DATATYPES = ("FP64", "INT64", "UINT8", "BOOL", "BYTES", "BF16", "FP16", "fp32", "", "FP99", None, 7)
VALUES = (float("nan"), float("inf"), -float("inf"), 3.4e38, 1e-45, -0.0, 666.0)
"""Legal ones; 666 makes the scripted models break."""
LEGAL = ("666", "3.4e38", "1e-45", "-0.0", "0")
TEXTS = ("NaN", "1e999", "-1e999", "1e-400", "666", '"1"', "null", "true", "[1]", "{}", str(10**400))
ROUND_S = 20.0


@dataclass
class Seen:
    """What became of the poison and of its batch mates."""

    poison: Counter[str] = field(default_factory=Counter)
    mates: int = 0
    hurt: list[str] = field(default_factory=list)


class Poison:
    """Requests of three kinds, drawn from a seed: JSON, binary tensors, gRPC."""

    def __init__(self, port: int, channel: grpc.aio.Channel, seed: int) -> None:
        self._port = port
        self._chance = random.Random(seed)
        self._send = channel.unary_unary(METHOD)

    async def one(self) -> str:
        """Send one; the protocol's status. Raises TimeoutError where none comes."""
        ways = (self._json, self._binary, self._grpc)
        return await asyncio.wait_for(self._chance.choice(ways)(), ROUND_S)

    def _shape(self) -> list[Any]:
        chance = self._chance
        if chance.random() < 0.75:
            return [1, 4]
        return [chance.choice(LENGTHS) for _ in range(chance.choice((0, 1, 2, 2, 2, 3, 9)))]

    def _item(self) -> dict[str, Any]:
        wrong = self._chance.random() < 0.25
        datatype = self._chance.choice(DATATYPES) if wrong else "FP32"
        return {"name": "x", "datatype": datatype, "shape": self._shape()}

    def _values(self) -> list[float]:
        return [self._chance.choice(VALUES) for _ in range(4)]

    async def _json(self) -> str:
        item = json.dumps(self._item())
        texts = LEGAL if self._chance.random() < 0.5 else TEXTS
        data = ", ".join(self._chance.choice(texts) for _ in range(self._chance.choice((4, 4, 4, 0, 3, 5))))
        return await self._exchange(f'{{"inputs": [{item[:-1]}, "data": [{data}]}}]}}'.encode())

    async def _binary(self) -> str:
        data = np.array(self._values(), np.float32).tobytes()
        size = self._chance.choice((16, 16, 16, 0, 15, 17, -1, 2**31, 2**63, 1.5, "16"))
        item = self._item() | {"parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [item], "parameters": {"binary_data_output": True}}).encode()
        length = self._chance.choice((len(head),) * 6 + (0, -1, 2**63, len(head) + 99))
        return await self._exchange(head + data, b"Inference-Header-Content-Length: %d\r\n" % length)

    async def _exchange(self, body: bytes, more: bytes = b"") -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n%bContent-Length: %d\r\n\r\n" % (more, len(body))
        writer.write(head + body)
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
        return answer.split(b" ", 2)[1].decode()

    async def _grpc(self) -> str:
        item = self._item()
        tensor = {"name": "x", "datatype": str(item["datatype"])}
        shape = [n if isinstance(n, int) and -(2**63) <= n < 2**63 else -7 for n in item["shape"]]
        request = triton.ModelInferRequest(model_name="m")
        request.inputs.add(**tensor, shape=shape)
        data = np.array(self._values(), np.float32).tobytes()
        for part in self._chance.choice(((data,), (data,), (), (data, data), (data[:7],))):
            request.raw_input_contents.append(part)
        try:
            await self._send(request.SerializeToString())
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"


async def rounds(server: RunningReplica, seconds: float, seed: int) -> tuple[Seen, float]:
    """A poison and its mates at a time; and the requests per execution, of which mates in batches make many."""
    seen, end = Seen(), time.perf_counter() + seconds
    chance = np.random.default_rng(seed)
    url = f"http://{server.address}"
    async with (
        AsyncClient(url, retries=NO_RETRIES) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        poison = Poison(server.http_port, channel, seed)
        while time.perf_counter() < end:
            inputs = chance.standard_normal((MATES, 1, 4)).astype(np.float32)
            alone = [await client.infer("m", {"x": x}) for x in inputs[:1]]
            poisoned, *mates = await asyncio.gather(
                poison.one(), *(client.infer("m", {"x": x}) for x in inputs), return_exceptions=True
            )
            seen.poison[poisoned if isinstance(poisoned, str) else repr(poisoned)] += 1
            seen.mates += MATES
            for x, mate in zip(inputs, mates, strict=True):
                if isinstance(mate, BaseException):
                    seen.hurt.append(str(mate))
                elif mate["y"].tobytes() != expected(x).tobytes():
                    seen.hurt.append(f"{mate['y']} for {x}")
            if alone[0]["y"].tobytes() != expected(inputs[0]).tobytes():
                raise ModelyardError(f"the model gives {alone[0]['y']} for {inputs[0]}")
        [statistics] = await client.statistics("m")
    return seen, statistics.inference_count / max(statistics.execution_count, 1)


def expected(x: np.ndarray) -> np.ndarray:
    """What every model of this row gives: its input."""
    return x


def identity(folder: Path) -> ServedModel:
    """y = x * 1, computed by onnxruntime; exact, so that mates can be compared bit by bit."""
    import onnx
    from onnx import TensorProto as Type
    from onnx import helper

    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "one"], ["y"])],
        "identity",
        [info("x", Type.FLOAT, ["batch", 4])],
        [info("y", Type.FLOAT, ["batch", 4])],
        [helper.make_tensor("one", Type.FLOAT, [1], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "identity.onnx")
    tensor = (Datatype.FP32, ("batch", 4))
    signature = Signature((TensorSpec("x", *tensor),), (TensorSpec("y", *tensor),))
    return ServedModel(
        "m", 1, artifact(folder, "identity.onnx", "onnx", signature), "onnxruntime", batching=Batching(16, 2000)
    )


def models(folder: Path) -> Iterator[tuple[str, ServedModel]]:
    """Models that break in their own ways, on 666 or in batches."""
    yield "onnxruntime", identity(folder)
    yield "one that raises", scripted("poison", batch=16, delay_us=2000)
    yield "one that gives a row too few", scripted("short", batch=16, delay_us=2000)
    yield "one that gives no output", scripted("fewer", batch=16, delay_us=2000)


def t24(folder: Path, options: Options) -> Result:
    """Overflow, negative lengths, NaN, wrong types, wrong outputs beside good mates: no crash, mates bit-identical."""
    total, crashed, unanswered = Seen(), 0, 0
    for seed, (name, model) in enumerate(models(folder)):
        with replica(folder / f"r{seed}", model) as server:
            seen, together = asyncio.run(rounds(server, options.seconds, seed))
            crashed += server.process.poll() is not None
        unanswered += sum(n for status, n in seen.poison.items() if not known(status))
        print(f"  {name}: {dict(seen.poison.most_common())}; {together:.1f} requests per execution", flush=True)
        for text in seen.hurt[:3]:
            print(f"    {text}")
        total.poison += seen.poison
        total.mates += seen.mates
        total.hurt += seen.hurt
    figure = (
        f"{total.poison.total():,} cases on 4 models, {unanswered} without a proper answer, {crashed} crashes; "
        f"{len(total.hurt)} of {total.mates:,} mates failed or differ"
    )
    return Result(figure, not (crashed or unanswered or total.hurt))


def known(status: str) -> bool:
    """Whether it is the answer to an honest request, to a bad one, or to one that broke its model."""
    return status in ("200", "400", "413", "500", "OK", "INVALID_ARGUMENT", "INTERNAL")
