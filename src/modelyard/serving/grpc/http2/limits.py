"""What one HTTP/2 connection may cost: sizes, deadlines, and a budget for frames that ask for work and bring none."""

from __future__ import annotations

from typing import Final

MAX_STREAMS: Final = 1024
"""Open streams per connection; the model's own queue refuses earlier."""
MAX_HEADER_LIST_BYTES: Final = 16 * 1024
"""A request's metadata, counted as RFC 9113 does (32 bytes more per field); grpcio's default limit too."""
MAX_DECODED_HEADER_BYTES: Final = 64 * 1024
"""Beyond this a header block is a bomb and its connection ends; between the two limits only its stream is refused."""
MAX_BLOCK_BYTES: Final = 64 * 1024
MAX_CONTINUATIONS: Final = 16
"""CONTINUATION frames per header block (CVE-2024-27316 and kin)."""
MAX_FRAME_BYTES: Final = 128 * 1024
"""The largest frame that is taken: large tensors then come in fewer frames than with the protocol's 16 KiB."""
STREAM_WINDOW: Final = 1024 * 1024
CONNECTION_WINDOW: Final = 8 * 1024 * 1024
MAX_OUTPUT_BYTES: Final = 64 * 1024 * 1024
"""Answers held for a client that does not read; with more, its new streams are refused."""
MAX_PARTIAL_BYTES: Final = 1024 * 1024 * 1024
"""Requests that are being received, over all connections; beyond it they are refused."""
MAX_UNSENT_BYTES: Final = 256 * 1024 * 1024
"""Answers that wait, over all connections; beyond it, the connections that are stuck longest are closed."""
WRITE_HIGH_BYTES: Final = 1024 * 1024
"""Bytes in the transport above which nothing more is read from the client."""

SETUP_DEADLINE_S: Final = 10.0
"""From the connection to the client's preface and SETTINGS; also for the rest of a header block."""
BODY_DEADLINE_S: Final = 60.0
"""From a unary call's headers to the end of its message."""
STALLED_S: Final = 30.0
"""An output that the client lets make no progress for this long ends the connection."""
IDLE_S: Final = 300.0
KEEPALIVE_S: Final = 60.0
"""With open streams and nothing received for this long, a PING asks whether the client still lives."""
KEEPALIVE_ANSWER_S: Final = 20.0
DRAIN_PING_S: Final = 1.0
"""A client that does not answer the PING of a drain in this time is taken to have seen the GOAWAY."""
LINGER_S: Final = 2.0
"""After a fatal error what still comes is dropped this long, so that the client sees the GOAWAY, not a reset."""

_BURST: Final = 1000
_PER_SECOND: Final = 100
_PER_REQUEST: Final = 4


class Budget:
    """Counts a connection's suspicious frames, forgives some per second and (noise only) some per request.

    `resets` are streams that the client opened and took back (rapid reset, CVE-2023-44487): what they cost is spent, so
    requests forgive none. `noise` are PING, SETTINGS, PRIORITY, empty DATA and unknown frames: clients that estimate
    the bandwidth send PINGs with their requests (grpc-go, grpcio). The burst of 1000 is nghttp2's.
    """

    __slots__ = ("_noise", "_requests", "_resets")

    def __init__(self) -> None:
        self._noise = 0
        self._resets = 0
        self._requests = 0

    def count_noise(self, requests: int) -> bool:
        """Count one frame, `requests` having come so far; False once there are too many."""
        self._noise += 1
        if self._noise > _BURST:
            self._forgive(requests)
        return self._noise <= _BURST

    def count_reset(self) -> bool:
        """Count one stream taken back; False once there are too many."""
        self._resets += 1
        return self._resets <= _BURST

    def _forgive(self, requests: int) -> None:
        self._noise = max(self._noise - _PER_REQUEST * (requests - self._requests), 0)
        self._requests = requests

    def tick(self, seconds: float, requests: int) -> None:
        """Forgive for `seconds` passed."""
        self._forgive(requests)
        forgiven = int(_PER_SECOND * seconds)
        self._noise = max(self._noise - forgiven, 0)
        self._resets = max(self._resets - forgiven, 0)
