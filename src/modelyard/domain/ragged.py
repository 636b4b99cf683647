"""Rows of different sizes (sentences, recordings) in rectangular arrays: cut to their sizes and grouped by them.

A data set is an `.npz` of arrays whose rows have one shape; numpy has no other form that needs no pickle. Where rows
differ in size along a symbolic dimension, they are stored padded, beside an integer array of how long each one really
is. What lies behind is never given to a model: rows of one size form a group, and a batch is drawn from one group, as a
server joins only requests of equal shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor, Tensors, TensorSpec


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of equal sizes: `tensors` cut to them, and `index`, their places (rows,) in the data set they come from."""

    tensors: dict[str, Tensor]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.index)


def group_rows(rows: Tensors, specs: Sequence[TensorSpec], lengths: Mapping[str, Tensor]) -> tuple[RowGroup, ...]:
    """The groups of `rows` (an array (rows, ...) per input), in the order in which their sizes first appear.

    `specs`: the inputs. `lengths`: by symbolic dimension, the size of each row along it (rows,), 1 to what the arrays
    have; without any, all rows are one group. Raises InvalidInput for lengths that do not fit the rows.
    """
    total = len(next(iter(rows.values())))
    if not lengths:
        return (RowGroup(dict(rows), np.arange(total, dtype=np.int64)),)
    for dim, length in lengths.items():
        check_lengths(dim, length, {spec.name: rows[spec.name].shape for spec in specs}, specs)
    table = np.stack([length.astype(np.int64) for length in lengths.values()], axis=1)
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, sizes in enumerate(map(tuple, table.tolist())):
        groups.setdefault(sizes, []).append(row)
    return tuple(
        RowGroup(_cut(rows, specs, dict(zip(lengths, sizes, strict=True)), np.array(index)), np.array(index))
        for sizes, index in groups.items()
    )


def typical(groups: Sequence[RowGroup]) -> RowGroup:
    """The group of the row of median size (elements per row): what stands for all where only one shape can."""
    if len(groups) == 1:
        return groups[0]
    ordered = sorted(groups, key=lambda group: sum(t[0].size for t in group.tensors.values()))
    seen, half = 0, sum(map(len, groups)) / 2
    for group in ordered:
        seen += len(group)
        if seen >= half:
            return group
    raise InvalidInput("there are no rows")


def check_lengths(dim: str, length: Tensor, shapes: Mapping[str, Sequence[int]], specs: Sequence[TensorSpec]) -> None:
    """Raise InvalidInput unless `length` gives every row of arrays of `shapes` a size along `dim` that they have.

    `specs`: the inputs, all of which must be batched.
    """
    if not all(spec.batched for spec in specs):
        raise InvalidInput(
            "only rows of batched inputs can differ in size", hint="give every input a symbolic first dimension"
        )
    sizes = [
        (shapes[spec.name][0], shapes[spec.name][axis])
        for spec in specs
        for axis, name in _row_axes(spec)
        if name == dim and spec.name in shapes
    ]
    if not sizes:
        names = dict.fromkeys(name for spec in specs for _, name in _row_axes(spec))
        known = f"symbolic dimensions of a row: {', '.join(names) or 'none'}"
        raise InvalidInput(f"no input has rows of different sizes along '{dim}'", hint=known)
    rows, most = sizes[0]
    if length.dtype.kind not in "iu" or length.shape != (rows,):
        raise InvalidInput(
            f"the lengths along '{dim}' are {length.dtype}{list(length.shape)}",
            hint=f"give one integer for each of the {rows} rows",
        )
    if int(length.min()) < 1 or int(length.max()) > most:
        raise InvalidInput(
            f"the lengths along '{dim}' are {int(length.min())} to {int(length.max())}",
            hint=f"the arrays have room for 1 to {most}",
        )


def _row_axes(spec: TensorSpec) -> list[tuple[int, str]]:
    """The symbolic dimensions of a row; none where the input has no rows."""
    return [(i, d) for i, d in enumerate(spec.shape) if isinstance(d, str) and i > 0 and spec.batched]


def _cut(
    rows: Tensors, specs: Sequence[TensorSpec], sizes: Mapping[str, int], index: NDArray[np.int64]
) -> dict[str, Tensor]:
    cut = {}
    for spec in specs:
        tensor = rows[spec.name][index]
        for axis, dim in _row_axes(spec):
            if dim in sizes:
                tensor = tensor[(slice(None),) * axis + (slice(sizes[dim]),)]
        cut[spec.name] = np.ascontiguousarray(tensor)
    return cut
