"""What a protocol brings to the gRPC fronts: its methods, and the codec of its inferences."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

from modelyard.domain.tensors import Tensor
from modelyard.serving.observe.context import TraceContext
from modelyard.serving.oip.plan import Plan
from modelyard.serving.scheduling.executor import Executor

LARGE_BYTES: Final = 64 * 1024
"""A message of more bytes may be slow to decode: its codec is asked."""
LARGE_ELEMENTS: Final = 4096
"""More elements that are encoded one by one are encoded in a pool thread."""

Decoded: TypeAlias = tuple[Executor, Plan, tuple[Tensor, ...]]
"""Where a request goes, its plan, its tensors in the signature's order."""


@dataclass(slots=True)
class Call:
    """What a front knows of a call besides its message. `received`: perf_counter; `timeout_s`: left at `received`.

    `whole`: when the last byte of a unary call's message was read; 0 where nobody knows. `binary`: metadata whose names
    end in `-bin`, decoded. `trace`: the trace that the caller is part of.
    """

    received: float
    timeout_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    binary: Mapping[str, bytes] = field(default_factory=dict)
    whole: float = 0.0
    trace: TraceContext | None = None


class InferenceCodec(Protocol):
    """One protocol's unary inference method. Event-loop thread only, but for `encode` and what `slow` returns."""

    def decode(self, message: bytes) -> Decoded:
        """Decode and check a request message. Raises ModelyardError."""
        ...

    def slow(self, message: bytes) -> Callable[[], Decoded] | None:
        """What decodes a message above LARGE_BYTES in a pool thread, its executor chosen; None: `decode` is fast.

        Both raise ModelyardError.
        """
        ...

    def encode(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> bytes:
        """The response message for rows `start:stop` of a batch's outputs (all where the model is not batched)."""
        ...

    def slow_elements(self, plan: Plan, outputs: list[Tensor], start: int, stop: int) -> int:
        """How many elements `encode` would write one by one."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC; messages are bytes on both sides. Exactly one of the three handlers is set; they raise ModelyardError.

    `path`: e.g. `/inference.GRPCInferenceService/ModelInfer`. `stream` serves server and bidirectional streaming.
    """

    path: str
    inference: InferenceCodec | None = None
    unary: Callable[[bytes, Call], Awaitable[bytes]] | None = None
    stream: Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]] | None = None


Methods = Mapping[str, Method]
"""By path."""


def by_path(*methods: Any) -> dict[str, Method]:
    """Index methods by path."""
    return {method.path: method for method in methods}
