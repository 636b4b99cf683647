"""Which cells a run has: for each model the lines (system, batching, protocol) and the connections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.serving.models import Model
from bench.serving.systems import SYSTEMS, System
from modelyard.domain.workload import Protocol

INPROCESS = "in-process"


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """A line of the table. `batching` is None where a system has no dynamic batching."""

    system: str
    batching: bool | None
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Cell:
    """One timed measurement; `connections` is the batch size for the in-process runtime."""

    model: str
    line: Line
    connections: int


@dataclass(frozen=True, slots=True)
class Extent:
    """Connections with batching on (or for systems without it) and with batching off; seconds per cell, times base.

    `large`: a request is so large that JSON measures the parser; only systems without another protocol are asked in it.
    """

    on: tuple[int, ...]
    off: tuple[int, ...]
    seconds: float = 1.0
    large: bool = False


EXTENTS = {
    "mlp": Extent(on=(1, 8, 32, 128), off=(1, 32)),
    "cnn": Extent(on=(1, 32), off=(1, 32)),
    "encoder": Extent(on=(1, 32), off=(1, 32)),
    "resnet50": Extent(on=(1, 8), off=(8,), seconds=2.0, large=True),
}


def lines(system: System, model: Model) -> Iterator[Line]:
    """The lines of a system for a model."""
    if system.models and model.name not in system.models:
        return
    for batching in variants(system, model):
        for protocol in system.protocols:
            if protocol is Protocol.HTTP_JSON and EXTENTS[model.name].large and len(system.protocols) > 1:
                continue
            yield Line(system.name, batching, protocol)


def variants(system: System, model: Model) -> tuple[bool | None, ...]:
    """Batching on and off, or neither; ragged requests with batching only where that takes no code of the user's."""
    if not system.batches:
        return (None,)
    if system.replicas > 1 and not model.slow:
        return (True,)  # more of the same: what batching does is measured on one replica
    if model.ragged and not system.batches_ragged:
        return (False,)
    return (True, False)


def cells(
    systems: Sequence[str], model: Model, connections: Sequence[int] | None, protocols: Sequence[Protocol]
) -> Iterator[list[Cell]]:
    """Groups of cells to be measured side by side: one protocol at one number of connections, all systems.

    `connections` replaces the model's own, except that batching off is measured at the smallest and the largest only.
    """
    extent = EXTENTS[model.name]
    on = tuple(connections or extent.on)
    off = tuple({on[0], on[-1]}) if connections else extent.off
    every = [line for name in systems for line in lines(SYSTEMS[name], model)]
    for number in sorted({*on, *off}):
        for protocol in protocols:
            group = [
                Cell(model.name, line, number)
                for line in every
                if line.protocol is protocol and number in (off if line.batching is False else on)
            ]
            if group:
                yield group
    for batch in sorted({min(number, model.max_batch) for number in on}):
        yield [Cell(model.name, Line(INPROCESS, None, Protocol.HTTP_BINARY), batch)]
