"""HTTP/2's frames (RFC 9113, sections 4, 6 and 7): constants, and the bytes of those that a server sends."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

HEADER_BYTES: Final = 9
DEFAULT_WINDOW: Final = 65_535
DEFAULT_TABLE_BYTES: Final = 4096
SMALLEST_MAX_FRAME: Final = 16_384
LARGEST_MAX_FRAME: Final = 2**24 - 1
LARGEST_WINDOW: Final = 2**31 - 1
LARGEST_STREAM: Final = 2**31 - 1

header = Struct(">IBI")
"""A frame's header: `length << 8 | type`, flags, stream (the top bit is reserved)."""
_setting = Struct(">HI")
u32 = Struct(">I")


class Code(IntEnum):
    """Error codes (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Violation(Exception):
    """The peer broke the protocol in a way that ends the connection (RFC 9113, section 5.4.1): no answer to a call."""

    def __init__(self, what: str, *, code: Code = Code.PROTOCOL_ERROR) -> None:
        super().__init__(what)
        self.what = what
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return header.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(key, value) for key, value in values.items()))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The settings of a SETTINGS frame whose length is a multiple of 6."""
    return list(_setting.iter_unpack(payload))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def ping(payload: bytes, *, ack: bool) -> bytes:
    """A PING of 8 bytes, or the answer to one."""
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream: int, code: Code, text: str = "") -> bytes:
    """A GOAWAY: streams up to `last_stream` may have been handled."""
    return frame(GOAWAY, 0, 0, u32.pack(last_stream) + u32.pack(code) + text.encode())


def rst_stream(stream: int, code: Code) -> bytes:
    """A RST_STREAM."""
    return frame(RST_STREAM, 0, stream, u32.pack(code))


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE: the peer may send `increment` bytes more on a stream, or (0) on the connection."""
    return frame(WINDOW_UPDATE, 0, stream, u32.pack(increment))
