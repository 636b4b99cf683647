"""How a shadow's answers compare with the primary's: counters, and the comparison of one request."""

from __future__ import annotations

import msgspec
import numpy as np

from modelyard.domain.tensors import Tensor


class ShadowStatistics(msgspec.Struct):
    """What became of the copies that a shadow version was offered, since it became the shadow.

    `offered` requests were answered by a primary version; of each a copy was then either `dropped` (the replica had
    better to do), `failed` (by the shadow) or `compared`. `mismatched` of the compared ones differ in shape, in what
    is NaN or infinite, or in a string. `max_abs_error` is the largest difference of two numbers that are finite in
    both. `rows` have an arg-max (outputs with two dimensions or more and 2 numbers or more in the last), and in
    `rows_agreeing` it is the same.
    """

    model: str
    version: int
    offered: int = 0
    dropped: int = 0
    failed: int = 0
    compared: int = 0
    mismatched: int = 0
    max_abs_error: float = 0.0
    rows: int = 0
    rows_agreeing: int = 0

    @property
    def missing(self) -> int:
        """Copies that are still on their way."""
        return self.offered - self.dropped - self.failed - self.compared


class Difference(msgspec.Struct):
    """Two answers to one request."""

    mismatched: bool = False
    max_abs_error: float = 0.0
    rows: int = 0
    rows_agreeing: int = 0

    def into(self, total: ShadowStatistics) -> None:
        """Count it."""
        total.compared += 1
        total.mismatched += self.mismatched
        total.max_abs_error = max(total.max_abs_error, self.max_abs_error)
        total.rows += self.rows
        total.rows_agreeing += self.rows_agreeing


def compare(primary: list[Tensor], shadow: list[Tensor]) -> Difference:
    """Compare two answers, output by output in the signature's order. Any thread."""
    difference = Difference()
    for ours, theirs in zip(primary, shadow, strict=True):
        if ours.shape != theirs.shape:
            difference.mismatched = True
        elif ours.dtype.kind not in "biuf":
            difference.mismatched |= not np.array_equal(ours, theirs)
        elif ours.size:
            _numbers(ours, theirs, difference)
    return difference


def _numbers(ours: Tensor, theirs: Tensor, difference: Difference) -> None:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not finite.all():
        odd = ~finite
        difference.mismatched |= not np.array_equal(a[odd], b[odd], equal_nan=True)
    if finite.any():
        with np.errstate(over="ignore"):  # the difference of two doubles near the limit is infinite, and may be
            largest = float(np.abs(a[finite] - b[finite]).max())
        difference.max_abs_error = max(difference.max_abs_error, largest)
    if a.ndim >= 2 and a.shape[-1] >= 2:
        agree = np.argmax(a, axis=-1) == np.argmax(b, axis=-1)
        difference.rows += agree.size
        difference.rows_agreeing += int(agree.sum())
