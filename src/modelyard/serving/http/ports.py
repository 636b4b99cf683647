"""What a protocol brings to the HTTP front: its routes, and the codec of its inferences."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from modelyard.domain.tensors import Tensor
from modelyard.serving.http.head import Head
from modelyard.serving.models.target import Target
from modelyard.serving.oip.plan import Interface, Plan

Body: TypeAlias = bytes | bytearray


class Reply(NamedTuple):
    """A response: its status, and all that follows the status line and the `Date` line.

    `rest` is further header lines (each ending in CRLF), `Content-Length` among them, the blank line and the body.
    """

    status: int
    rest: bytes


class Codec(Protocol):
    """One protocol's inference over HTTP. Stateless; used from the event loop and from pool threads."""

    def slow_bytes(self, interface: Interface, head: Head, body: Body) -> int:
        """How many bytes of `body` are read value by value, JSON or strings: much of it is decoded in a pool thread."""
        ...

    def decode(self, interface: Interface, head: Head, body: Body) -> tuple[Plan, tuple[Tensor, ...]]:
        """Decode and check a request: its plan, and its tensors in the signature's order.

        The tensors may be read-only views of `body`. Raises InvalidInput, Unsupported.
        """
        ...

    def render(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """`Reply.rest` of a 200 response with rows `start:stop` of a batch's outputs (all where not batched).

        `outputs` are in the signature's order. Raises InvalidInput for what the format cannot carry.
        """
        ...

    def slow_elements(self, plan: Plan, outputs: list[Tensor], rows: int, batch_rows: int) -> int:
        """How many elements `render` would write one by one, JSON or strings: many are rendered in a pool thread."""
        ...


@dataclass(frozen=True, slots=True)
class Inference:
    """What the head of an inference request leads to; remembered with the head."""

    target: Target
    codec: Codec


class Routes(Protocol):
    """The paths of one protocol. Event-loop thread only."""

    def inference(self, head: Head) -> Inference | None:
        """Where a head's inference goes; None if it is none of this protocol. Raises NotFound, InvalidInput."""
        ...

    def respond(self, head: Head, body: Body) -> Reply | Coroutine[Any, Any, Reply] | None:
        """Answer anything else, at once or by a coroutine; None where the path is not of this protocol.

        Raises ModelyardError, also from the coroutine.
        """
        ...
