"""What a slot of an executor runs: one copy of a loaded model."""

from __future__ import annotations

from typing import Protocol

from modelyard.domain.tensors import Tensor, Tensors


class Instance(Protocol):
    """One copy of a loaded model, used by one slot: one `run` at a time, always in the slot's thread or inline."""

    @property
    def inline(self) -> bool:
        """Whether `run` may be called on the event loop itself while it is cheap.

        True only where a `run` that hangs can be ended from outside, or cannot hang.
        """
        ...

    def run(self, tensors: Tensors) -> dict[str, Tensor]:
        """Execute one batch: arrays by the inner signature's names in and out; blocking.

        Raises what the model raises, BackendFailed after `interrupt`, Unavailable once the instance is gone for good.
        """
        ...

    def interrupt(self) -> bool:
        """From another thread: make a running `run` raise soon; False where that is impossible."""
        ...

    def close(self) -> None:
        """Free the model; may be called twice, and while an abandoned `run` still hangs."""
        ...
