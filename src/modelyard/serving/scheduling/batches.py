"""How a slot executes a batch: join the requests' tensors, run the instance, check and split what it returns."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Protocol

import numpy as np

from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.domain.tensors import Tensor
from modelyard.serving.oip import wire
from modelyard.serving.oip.plan import Interface
from modelyard.serving.scheduling.ports import Instance
from modelyard.serving.scheduling.work import Outcome, Runnable, Work

_log = logging.getLogger(__name__)


class Seat(Protocol):
    """Where a batch runs: an instance, and whether the batch has been given up meanwhile."""

    instance: Instance
    given_up: bool


class Execution:
    """What all executions of one model share. Used in the slots' threads and on the event loop; keeps no state."""

    def __init__(self, interface: Interface, model: Runnable) -> None:
        self._name = interface.name
        self._outer = tuple(spec.name for spec in interface.signature.outputs)
        self._post = model.post
        self._batched = model.inner.batched
        self._inputs = tuple(spec.name for spec in model.inner.inputs)
        self._outputs = tuple((s.name, s.datatype.numpy) for s in model.inner.outputs)

    def run(self, seat: Seat, batch: list[Work], rows: int, units: int) -> list[Outcome]:
        """Execute a batch. If it raises, each of its requests runs alone, once: a poison one hurts only itself."""
        start = perf_counter()
        try:
            outputs = self._predict(seat.instance, batch, rows)
            end = perf_counter()
            if self._post is None:
                return [Outcome(batch, rows, start, end, outputs, units=units)]
        except BaseException as problem:  # noqa: BLE001 - whatever a model throws ends here, exits and interrupts too
            end = perf_counter()
            if seat.given_up:
                return []
            if len(batch) > 1:
                return self._one_by_one(seat, batch, units // rows)
            _log.warning("model %s failed: %r", self._name, problem, exc_info=True)
            return [Outcome(batch, rows, start, end, error=self._failure(problem))]
        return self._postprocess(batch, Outcome([], rows, start, end, outputs, units=units))

    def _one_by_one(self, seat: Seat, batch: list[Work], each: int) -> list[Outcome]:
        """Run every request alone, until the execution is given up: then nobody waits for the rest."""
        outcomes: list[Outcome] = []
        for work in batch:
            if seat.given_up:
                break
            outcomes += self.run(seat, [work], work.rows, work.rows * each)
        return outcomes

    def _failure(self, problem: BaseException) -> ModelyardError:
        if isinstance(problem, ModelyardError):
            return problem
        return BackendFailed(f"model '{self._name}' failed", why=f"{type(problem).__name__}: {problem}")

    def _predict(self, instance: Instance, batch: list[Work], rows: int) -> list[Tensor]:
        if len(batch) == 1:
            tensors = [owned(t) for t in batch[0].tensors]
        elif len(self._inputs) == 1:
            tensors = [np.concatenate([work.tensors[0] for work in batch])]
        else:
            tensors = [np.concatenate([work.tensors[i] for work in batch]) for i in range(len(self._inputs))]
        results = instance.run(dict(zip(self._inputs, tensors)))  # noqa: B905 - as long; checking costs 0.1 us
        outputs: list[Tensor] = []
        for name, dtype in self._outputs:
            output = results.get(name)
            if output is None:
                raise BackendFailed(f"model '{self._name}' returned no output '{name}'")
            if (
                type(output) is not np.ndarray
                or output.dtype != dtype
                or not output.flags.c_contiguous
                or dtype.kind == "O"
            ):
                output = wire.normalised(output)
                if output.dtype != dtype:
                    raise BackendFailed(
                        f"model '{self._name}' returned output '{name}' as {output.dtype}", why=f"not {dtype}"
                    )
            if self._batched and (not output.ndim or output.shape[0] != rows):
                raise BackendFailed(
                    f"model '{self._name}' returned output '{name}' of shape {list(output.shape)}",
                    why=f"for {rows} rows",
                )
            outputs.append(output)
        return outputs

    def _postprocess(self, batch: list[Work], whole: Outcome) -> list[Outcome]:
        """Split and post-process each request on its own; its rows become an outcome of its own."""
        assert self._post is not None  # noqa: S101 - for the type checker; only then is this called
        outputs = whole.outputs or []
        outcomes: list[Outcome] = []
        row = 0
        names = [name for name, _ in self._outputs]
        for work in batch:
            stop = row + work.rows
            part = [o[row:stop] for o in outputs] if self._batched else outputs
            row = stop
            began = perf_counter()
            first = not outcomes
            units = whole.units if first else 0
            outcome = Outcome([work], whole.rows, whole.start, whole.end, counts=first, units=units)
            try:
                outer = self._post.apply(dict(zip(names, part, strict=True)))
                outcome.outputs = [wire.normalised(outer[name]) for name in self._outer]
            except ModelyardError as problem:
                outcome.error = problem
            except BaseException as problem:  # noqa: BLE001 - steps may be the user's code; it may even exit
                _log.exception("post-processing failed")
                outcome.error = BackendFailed(f"post-processing for model '{self._name}' failed", why=str(problem))
            work.post_s = perf_counter() - began
            outcomes.append(outcome)
        return outcomes


def owned(tensor: Tensor) -> Tensor:
    """The tensor itself where runtimes may write to it and read it aligned, else a copy."""
    flags = tensor.flags
    return tensor if flags.writeable and flags.aligned else tensor.copy()
