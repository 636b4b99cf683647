"""Classification and regression: which of a model's outputs they show, and examples to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Tensor, TensorSpec
from modelyard.serving.oip import wire
from modelyard.serving.oip.plan import Interface, Plan

_FLOATS = (Datatype.FP32, Datatype.FP64, Datatype.FP16, Datatype.BF16)
Values: TypeAlias = Sequence[Any]
Example: TypeAlias = Mapping[str, Values]
"""The features of one example, each a list of values (numbers, or bytes)."""


@dataclass(frozen=True, slots=True)
class ScoredOutputs:
    """The outputs that a classification shows: `scores` (rows, classes), and labels of the same shape if there are."""

    scores: int
    labels: int | None


def classified(interface: Interface) -> ScoredOutputs:
    """The outputs of a classifier: a matrix of scores, with BYTES labels beside it. Raises InvalidInput."""
    outputs = interface.signature.outputs
    scores = [i for i, s in enumerate(outputs) if interface.batched and len(s.shape) == 2 and s.datatype in _FLOATS]
    labels = [i for i, s in enumerate(outputs) if len(s.shape) == 2 and s.datatype is Datatype.BYTES]
    if len(scores) != 1:
        raise InvalidInput(
            f"model '{interface.name}' cannot classify",
            why="a classifier has one output of scores [batch, classes], this has " + ", ".join(map(str, outputs)),
            hint="use predict",
        )
    paired = len(labels) == 1 and outputs[labels[0]].shape[1:] == outputs[scores[0]].shape[1:]
    return ScoredOutputs(scores[0], labels[0] if paired else None)


def regressed(interface: Interface) -> int:
    """The output of a regression: one number per row. Raises InvalidInput."""
    outputs = interface.signature.outputs
    found = [
        i
        for i, spec in enumerate(outputs)
        if interface.batched and spec.datatype in _FLOATS and spec.shape[1:] in ((), (1,))
    ]
    if len(found) != 1:
        raise InvalidInput(
            f"model '{interface.name}' cannot regress",
            why="a regression has one output of one number per row, this has " + ", ".join(map(str, outputs)),
            hint="use predict",
        )
    return found[0]


def classes(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> list[list[tuple[str, float]]]:
    """Per row, label and score of every class. Labels: the model's output of them, its class names, or indices."""
    interface = plan.interface
    chosen = classified(interface)
    scores = outputs[chosen.scores][start:stop].tolist()
    if chosen.labels is not None:
        labels = [[v.decode("utf-8", "replace") for v in row] for row in outputs[chosen.labels][start:stop].tolist()]
    else:
        named = interface.classes
        width = len(scores[0]) if scores else 0
        labels = [[named[i] if i < len(named) else str(i) for i in range(width)]] * len(scores)
    return [list(zip(names, row, strict=True)) for names, row in zip(labels, scores, strict=True)]


def numbers(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> list[float]:
    """Per row, the value of a regression."""
    values: list[float] = outputs[regressed(plan.interface)][start:stop].ravel().tolist()
    return values


def tensors_of(interface: Interface, examples: Sequence[Example], context: Example) -> dict[str, Tensor]:
    """The model's inputs out of examples: a feature per input; the context's features are every example's.

    Raises InvalidInput.
    """
    if not examples:
        raise InvalidInput("Input is empty.", hint="send at least one example")
    rows = [{**context, **example} for example in examples]
    specs = interface.signature.inputs
    for row in rows:
        missing = [s.name for s in specs if s.name not in row]
        if missing:
            raise InvalidInput(
                f"an example has no feature '{missing[0]}'", hint=f"features are {', '.join(s.name for s in specs)}"
            )
    return {spec.name: _stacked(spec, [row[spec.name] for row in rows]) for spec in specs}


def _stacked(spec: TensorSpec, rows: list[Values]) -> Tensor:
    inner = spec.shape[1:]
    free = [i for i, d in enumerate(inner) if isinstance(d, str)]
    known = prod(d for d in inner if isinstance(d, int))
    length = len(rows[0])
    if any(len(row) != length for row in rows):
        raise InvalidInput(f"feature '{spec.name}' has different lengths in the examples of one request")
    shape = [d if isinstance(d, int) else length // known if known and len(free) == 1 else -1 for d in inner]
    if len(free) > 1 or prod(shape) != length:
        raise InvalidInput(f"feature '{spec.name}' has {length} values", why=f"input {spec} takes {known} per row")
    flat = [value for row in rows for value in row]
    if spec.datatype is Datatype.BYTES:
        if not all(isinstance(value, bytes) for value in flat):
            raise InvalidInput(f"feature '{spec.name}' must be a bytes_list")
        return wire.object_array(flat).reshape(len(rows), *shape)
    if any(isinstance(value, bytes) for value in flat):
        raise InvalidInput(f"feature '{spec.name}' must be numbers")
    tensor = wire.from_json(spec.name, str(spec.datatype), (len(rows), *shape), flat)
    return np.ascontiguousarray(tensor)
