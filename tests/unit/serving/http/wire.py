"""A connection without a socket: bytes in, bytes out, and a clock that the test owns."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.serving.http.connection import Connection
from modelyard.serving.http.front import HttpFront
from modelyard.serving.http.limits import Limits
from modelyard.serving.http.ports import Inference, Reply
from modelyard.serving.http.router import json_response, response


@dataclass
class Plane:
    draining: bool = False
    connections: int = 0
    bad_requests: int = 0
    refused_requests: int = 0


class Transport:
    """What a connection writes to; `stuck` stands for a client that does not read."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.sent = bytearray()
        self.stuck = 0
        self.reading = True
        self.eof = self.closed = self.aborted = False

    def write(self, data: bytes) -> None:
        if self.closed:
            raise RuntimeError("closed")
        self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.stuck

    @property
    def answers(self) -> list[tuple[int, dict[str, str], bytes]]:
        """Status, headers and body of every response sent."""
        found, rest = [], bytes(self.sent)
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
            length = int(headers.get("content-length", 0))
            found.append((int(lines[0].split()[1]), headers, rest[:length]))
            rest = rest[length:]
        return found

    @property
    def statuses(self) -> list[int]:
        return [status for status, _, _ in self.answers]

    @property
    def text(self) -> str:
        """All that was sent, without dates and span ids."""
        text = re.sub(r"Date: [^\r]*\r\n", "", self.sent.decode("latin-1"))
        return re.sub(r"(traceparent: 00-[0-9a-f]{32}-)[0-9a-f]{16}", r"\1", text)


@dataclass
class Held:
    """An executor that answers when told to."""

    works: list[Any] = field(default_factory=list)
    interface: object = None
    only: None = None

    def submit(self, work: Any) -> None:
        self.works.append(work)

    def pick(self) -> Held:
        return self


@dataclass
class Plan:
    rows: int = 1
    shape_key: object = ()
    timeout_s: float | None = None
    priority: int = 0


class Codec:
    """The body is an integer; the answer is it in the same form."""

    def slow_bytes(self, interface: Any, head: Any, body: Any) -> int:
        return 0

    def decode(self, interface: Any, head: Any, body: Any) -> tuple[Plan, tuple[Any, ...]]:
        if not bytes(body).isdigit():
            raise InvalidInput("no number")
        return Plan(), (np.array([int(body)]),)

    def render(self, plan: Any, outputs: Any, start: int, stop: int) -> bytes:
        return response(200, b"%d" % outputs[0][0]).rest

    def slow_elements(self, plan: Any, outputs: Any, rows: int, batch_rows: int) -> int:
        return 1


class EchoRoutes:
    """`POST /infer` goes to a model, `/echo` sends the body back, `/size/N` answers N bytes, `/head` what was read."""

    def __init__(self, executor: Held) -> None:
        self.executor = executor

    def inference(self, head: Any) -> Inference | None:
        return Inference(self.executor, Codec()) if head.segments == ("infer",) and head.method == "POST" else None

    def respond(self, head: Any, body: Any) -> Reply | None:
        match head.segments:
            case ("spin", ms):
                until = perf_counter() + int(ms) * 1e-3
                while perf_counter() < until:
                    pass
                return response(200)
            case ("echo",):
                return response(200, bytes(body))
            case ("size", size):
                return response(200, b"x" * int(size))
            case ("head",):
                return json_response([head.method, head.length, head.timeout_s, head.priority, head.accepts])
            case _:
                return None


class Bench:
    """A front and its connections inside one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.plane = Plane()
        self.executor = Held()
        self.pool = ThreadPoolExecutor(1)
        self.front = HttpFront(self.plane, [EchoRoutes(self.executor)], self.pool, limits)

    def connect(self) -> tuple[Connection, Transport]:
        connection = self.front.connection()
        transport = Transport(connection)
        connection.connection_made(transport)
        return connection, transport

    async def settle(self) -> None:
        """Let the loop and the pool finish what is under way."""
        for _ in range(3):
            await asyncio.get_running_loop().run_in_executor(self.pool, lambda: None)
            await asyncio.sleep(0)

    def answer_all(self, order: Callable[[list[Any]], list[Any]] = list) -> None:
        works, self.executor.works = self.executor.works, []
        for work in order(works):
            if not work.cancelled:
                work.reply(list(work.tensors), 0, 1)


def run(scenario: Callable[[Bench], Any], *, turn_s: float = math.inf, **limits: Any) -> Any:
    """Run a scenario (a coroutine function of a bench) in an event loop of its own.

    A connection's turn lasts as long as it has work unless ``turn_s`` says otherwise: how much a busy machine gets done
    in the server's own millisecond is nothing a test may rest on.
    """

    async def main() -> Any:
        bench = Bench(Limits(**limits))
        try:
            return await scenario(bench)
        finally:
            bench.pool.shutdown(wait=True)

    with mock.patch("modelyard.serving.http.connection._TURN_S", turn_s):
        return asyncio.run(main())


def post(body: bytes, path: str = "/echo", extra: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: h\r\n{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(path: str, extra: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n{extra}\r\n".encode()


def chunked(parts: list[bytes], path: str = "/echo", extra: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\n{extra}Transfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts if p) + b"0\r\n\r\n"
