"""Outputs that are answered as something else than their values: best classes, or in shared memory.

Extensions: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelyard.domain.tensors import Tensor
from modelyard.serving.oip import wire
from modelyard.serving.oip.plan import Plan
from modelyard.serving.oip.regions import RegionSlice


@dataclass(frozen=True, slots=True)
class Answer:
    """One output of a response: its values, or where its `size` bytes were put."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    binary: bool
    values: Tensor | None = None
    region: RegionSlice | None = None
    size: int = 0


def answers(plan: Plan, outputs: list[Tensor], start: int, stop: int) -> list[Answer]:
    """The requested outputs for rows `start:stop` of a batch, as wished. Writes those that go to shared memory.

    Raises InvalidInput where a client's shared memory is too small for what goes there.
    """
    face = plan.interface
    found: list[Answer] = []
    for (index, binary), wish in zip(plan.outputs, plan.wishes or (None,) * len(plan.outputs), strict=True):
        spec = face.signature.outputs[index]
        part = outputs[index][start:stop] if face.batched else outputs[index]
        datatype = str(spec.datatype)
        if wish is not None and wish.classes:
            best = best_classes(part, batched=face.batched, most=wish.classes, labels=face.classes)
            found.append(Answer(spec.name, "BYTES", best.shape, binary, best))
        elif wish is not None and wish.region is not None:
            size = wish.region.write(spec.name, wire.to_bytes(part, datatype))
            found.append(Answer(spec.name, datatype, part.shape, binary=False, region=wish.region, size=size))
        else:
            found.append(Answer(spec.name, datatype, part.shape, binary, part))
    return found


def best_classes(scores: Tensor, *, batched: bool, most: int, labels: tuple[str, ...]) -> Tensor:
    """The `most` highest elements of each row as BYTES `value:index[:label]`, highest first, as Triton writes them.

    `(rows, classes)`, or `(classes,)` where the model is not batched. Among equals the lower index comes first; NaN
    comes last. Labels are used where there is one for each element of a row.
    """
    rows = scores.reshape(len(scores) if batched else 1, -1)
    width = rows.shape[1]
    floats = rows.dtype.kind == "f"
    key = np.where(np.isnan(rows), -np.inf, rows) if floats else rows
    order = width - 1 - np.argsort(key[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :most]
    form = "%f:%d" if floats else "%d:%d"
    named = labels if len(labels) == width else ()
    texts: list[bytes] = []
    for row, indices in zip(rows, order.tolist(), strict=True):
        for i, value in zip(indices, row[indices].tolist(), strict=True):
            text = form % (value, i)
            texts.append((f"{text}:{named[i]}" if named else text).encode())
    made = wire.object_array(texts)
    return made.reshape(order.shape) if batched else made
