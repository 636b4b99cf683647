"""A client's side of an HTTP/2 connection in memory: frames in, frames out, no socket."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from hpack import Decoder, Encoder

from modelyard.domain.errors import InvalidInput
from modelyard.serving.grpc.http2 import frames
from modelyard.serving.grpc.http2.front import Http2Front
from modelyard.serving.grpc.ports import Method, by_path

MAX_BODY = 100_000
HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/t.S/Infer"),
    (":authority", "a"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def headers(path: str = "/t.S/Infer", *more: tuple[str, str], **changed: str) -> list[tuple[str, str]]:
    """A request's fields; `changed` by pseudo-header name without its colon."""
    given = {":path": path, **{f":{k}": v for k, v in changed.items()}}
    return [(name, given.get(name, value)) for name, value in HEADERS] + list(more)


def grpc_message(content: bytes, flag: int = 0) -> bytes:
    return bytes((flag,)) + len(content).to_bytes(4, "big") + content


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closed = self.aborted = self.ended = False
        self.reading = True

    def write(self, data: Any) -> None:
        if self.closed:
            raise RuntimeError("the transport is closed")
        self.sent += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Executor:
    """Keeps what is submitted."""

    def __init__(self) -> None:
        self.works: list[Any] = []

    def submit(self, work: Any) -> None:
        self.works.append(work)


class Codec:
    """Messages are one tensor of bytes; `bad` is refused."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def decode(self, message: bytes) -> Any:
        if message == b"bad":
            raise InvalidInput("a bad message")
        if message == b"broken":
            raise ZeroDivisionError
        plan = SimpleNamespace(rows=1, shape_key=(), timeout_s=None, priority=0, id="")
        return self.executor, plan, (np.frombuffer(message, np.uint8),)

    def slow(self, message: bytes) -> Any:
        return (lambda: self.decode(message)) if message[:4] == b"slow" else None

    def encode(self, plan: Any, outputs: Any, start: int, stop: int) -> bytes:
        return bytes(outputs[0])

    def slow_elements(self, plan: Any, outputs: Any, start: int, stop: int) -> int:
        return outputs[0].size if outputs[0][:4].tobytes() == b"slow" else 0


async def echo(message: bytes, call: Any) -> bytes:
    return message


async def chat(messages: Any, call: Any) -> Any:
    async for message in messages:
        yield message


async def hang(message: bytes, call: Any) -> bytes:
    await asyncio.Event().wait()
    return b""


async def deaf(messages: Any, call: Any) -> Any:
    await asyncio.Event().wait()
    yield b""


class Client:
    """One connection to a front, driven by hand. Use inside a running event loop."""

    def __init__(self, *, settings: dict[int, int] | None = None, start: bool = True, **options: float) -> None:
        self.plane = SimpleNamespace(bad_requests=0, refused_requests=0)
        self.executor = Executor()
        self.calls: list[Any] = []

        async def look(message: bytes, call: Any) -> bytes:
            self.calls.append(call)
            return message

        methods = by_path(
            Method("/t.S/Infer", inference=Codec(self.executor)),
            Method("/t.S/Echo", unary=echo),
            Method("/t.S/Look", unary=look),
            Method("/t.S/Hang", unary=hang),
            Method("/t.S/Chat", stream=chat),
            Method("/t.S/Deaf", stream=deaf),
        )
        self.pool = ThreadPoolExecutor(1)
        self.front = Http2Front(self.plane, methods, self.pool, MAX_BODY, **options)  # type: ignore[arg-type]
        self.transport = Transport()
        self.connection = self.front.connection()
        self.connection.connection_made(self.transport)
        self.encoder = Encoder()
        self._decoder = Decoder()
        if start:
            self.send(frames.PREFACE + frames.settings(settings or {}))
            self.frames()

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def block(self, fields: list[tuple[str, str]]) -> bytes:
        return bytes(self.encoder.encode(fields, huffman=False))

    def head(self, stream: int, fields: list[tuple[str, str]] | None = None, flags: int = 0) -> bytes:
        block = self.block(headers() if fields is None else fields)
        return frames.frame(frames.HEADERS, frames.END_HEADERS | flags, stream, block)

    def request(self, stream: int, path: str = "/t.S/Infer", content: bytes = b"x", *more: tuple[str, str]) -> bytes:
        return self.head(stream, headers(path, *more)) + data(stream, grpc_message(content), end=True)

    def frames(self) -> list[Frame]:
        """What the server sent since the last call."""
        sent, at, found = bytes(self.transport.sent), 0, []
        self.transport.sent.clear()
        while at < len(sent):
            first, flags, number = frames.header.unpack_from(sent, at)
            stop = at + 9 + (first >> 8)
            assert stop <= len(sent), "a frame is cut short"
            found.append(Frame(first & 255, flags, number, sent[at + 9 : stop]))
            at = stop
        return found

    def fields(self, frame: Frame) -> dict[str, str]:
        assert frame.kind == frames.HEADERS
        return dict(self._decoder.decode(frame.payload))

    def answer(self, stream: int, got: list[Frame] | None = None) -> tuple[bytes, dict[str, str]]:
        """A call's messages, with their prefixes, and all header fields that came for it."""
        content, fields = b"", {}
        for frame in self.frames() if got is None else got:
            if frame.kind == frames.HEADERS:
                seen = self.fields(frame)
                if frame.stream == stream:
                    fields.update(seen)
            elif frame.kind == frames.DATA and frame.stream == stream:
                content += frame.payload
        return content, fields

    def status(self, stream: int) -> int:
        return int(self.answer(stream)[1]["grpc-status"])

    def goaway(self) -> int | None:
        """The code of the GOAWAY that ended the connection."""
        for frame in self.frames():
            if frame.kind == frames.GOAWAY:
                return int.from_bytes(frame.payload[4:8], "big")
        return None

    def resets(self) -> dict[int, int]:
        """The codes of streams that were reset."""
        return {f.stream: int.from_bytes(f.payload, "big") for f in self.frames() if f.kind == frames.RST_STREAM}

    async def settle(self) -> None:
        """Let tasks and pool threads run until the connection's calls wait for the peer or are done."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def done(self, *streams: int) -> None:
        """Wait until calls have ended."""
        async with asyncio.timeout(10):
            while any(s in self.connection.streams for s in streams):
                await asyncio.sleep(0.001)

    def close(self) -> None:
        self.connection.connection_lost(None)
        self.pool.shutdown(wait=False)


def data(stream: int, payload: bytes, *, end: bool = False, flags: int = 0) -> bytes:
    return frames.frame(frames.DATA, flags | (frames.END_STREAM if end else 0), stream, payload)
