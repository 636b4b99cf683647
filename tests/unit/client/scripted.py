"""A TCP, Unix or TLS server that answers requests with prepared bytes, and both clients behind one face."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import uvloop

from modelyard.client import AsyncClient, Client

X = {"x": np.array([[1.0, 2.0]], np.float32)}


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body if length is None else self.body[: int(length)])


def response(body: bytes = b"{}", status: int = 200, **headers: str) -> bytes:
    """A whole response; `Name_With_Underscores` are header names with dashes."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Word\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answer(*outputs: dict[str, Any], **more: Any) -> bytes:
    """A whole response of an inference in JSON."""
    return response(json.dumps({"model_name": "m", "model_version": "1", "outputs": outputs, **more}).encode())


Y = {"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}
GOOD = answer(Y)


def echo(asked: Asked) -> bytes:
    """The inputs as outputs: a request's body is a response's, but for one word."""
    body = asked.body.replace(b'{"inputs"', b'{"outputs"', 1)
    length = asked.headers.get("inference-header-content-length")
    if length is None:
        return response(body)
    return response(body, Inference_Header_Content_Length=str(int(length) + 1))


HANG_UP = b""
"""Close without an answer."""
RESET = b"RESET"
"""Close so that the other side sees a reset."""
SILENCE = b"SILENCE"
"""Say nothing until the test ends."""


@dataclass
class Server:
    """Answers the n-th request (of all connections) with the n-th of `script`, and the last again and again."""

    script: list[bytes | Callable[[Asked], bytes]] = field(default_factory=lambda: [GOOD])
    close_after: bool = False
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    url: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set[socket.socket] = field(default_factory=set)

    def serve(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """Until the listener is shut down."""
        threads = []
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                break
            with self._lock:
                self.connections += 1
                self._open.add(plain)
            thread = threading.Thread(target=self._talk, args=(plain, context))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()

    def drop_connections(self) -> None:
        """Close every connection from this side, as a replica that was replaced."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _talk(self, plain: socket.socket, context: ssl.SSLContext | None) -> None:
        sock = plain
        with contextlib.suppress(OSError):
            if context is not None:
                sock = context.wrap_socket(plain, server_side=True)  # which takes the descriptor over
                with self._lock:
                    self._open.add(sock)
            with sock.makefile("rb") as file:
                while (asked := _read(file)) is not None and self._reply(sock, asked):
                    pass
        with self._lock:
            self._open -= {plain, sock}
        sock.close()

    def _reply(self, sock: socket.socket, asked: Asked) -> bool:
        with self._lock:
            turn = self.script[min(len(self.asked), len(self.script) - 1)]
            self.asked.append(asked)
        payload = turn(asked) if callable(turn) else turn
        if payload == SILENCE:
            self.over.wait()
            return False
        if payload == RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if payload == HANG_UP:
            return False
        sock.sendall(payload)
        return not self.close_after


def _read(file: Any) -> Asked | None:
    if not file.peek(1)[:1].isalpha():  # the end, or no HTTP
        return None
    line = file.readline()
    method, path, _ = line.decode("latin-1").split(" ")
    headers = {}
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return Asked(method, path, headers, file.read(int(headers.get("content-length", 0))))


@contextlib.contextmanager
def serving(
    family: int = socket.AF_INET, place: Any = ("127.0.0.1", 0), context: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """A server in a thread."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(place)
    listener.listen(64)
    server = Server()
    name = listener.getsockname()
    if family == socket.AF_UNIX:
        server.url = f"unix://{name}"
    else:
        host = f"[{name[0]}]" if family == socket.AF_INET6 else name[0]
        server.url = f"{'https' if context else 'http'}://{host}:{name[1]}"
    thread = threading.Thread(target=server.serve, args=(listener, context))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        server.drop_connections()
        thread.join(10)
        assert not thread.is_alive()


class Blocking:
    """The blocking client, as it is."""

    def __init__(self) -> None:
        self._made: list[Client] = []

    def client(self, url: str, **options: Any) -> Any:
        made = Client(url, **options)
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.close()


class _Awaited:
    """An AsyncClient whose methods block."""

    def __init__(self, client: AsyncClient, run: Callable[[Any], Any]) -> None:
        self._client, self._run = client, run

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **options: self._run(method(*args, **options))


class Async:
    """The client for asyncio on a loop of its own."""

    def __init__(self, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._runner = asyncio.Runner(loop_factory=loop)
        self._made: list[Any] = []

    def client(self, url: str, **options: Any) -> Any:
        made = _Awaited(AsyncClient(url, **options), self._runner.run)
        self._made.append(made)
        return made

    def close(self) -> None:
        for made in self._made:
            made.close()
        self._runner.close()


DRIVERS: dict[str, Callable[[], Any]] = {
    "blocking": Blocking,
    "asyncio": lambda: Async(asyncio.new_event_loop),
    "uvloop": lambda: Async(uvloop.new_event_loop),
}


def head_of(payload: bytes) -> bytes:
    """A response's head."""
    return payload[: payload.index(b"\r\n\r\n") + 4]


def body_of(payload: bytes) -> bytes:
    """A response's body."""
    return re.split(b"\r\n\r\n", payload, maxsplit=1)[1]
