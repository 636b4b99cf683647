"""Claims and declared outputs judged on hand-made runs."""

from __future__ import annotations

import numpy as np
import pytest

from modelyard.convert import Claim, Evidence
from modelyard.convert.cases import Case, Cases, Kind
from modelyard.convert.equivalence import CaseRun
from modelyard.convert.proof import SourceRun
from modelyard.convert.source_check import check
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", Datatype.FP32, ("batch", 4)),), (TensorSpec("y", Datatype.FP32, ("batch", "beams", 2)),)
)


def ran(*runs: CaseRun, repeatable: bool = True) -> SourceRun:
    return SourceRun(runs, repeatable, 0.1, "test")


def cases(*kinds: Kind) -> Cases:
    return Cases(tuple(Case(k.value, k, {"x": np.zeros((2, 4), np.float32)}, 2) for k in kinds))


@pytest.mark.parametrize(
    ("claimed", "measured", "rows", "met"),
    [
        (0.98, 0.976, 1000, True),
        (0.98, 0.97, 1000, False),
        (0.98, 0.97, 500, True),
        (0.98, 0.9, 500, False),
        (None, 0.1, 9, True),
    ],
)
def test_a_claim_is_met_within_rounding_and_the_error_of_its_sample(
    claimed: float | None, measured: float, rows: int, met: bool
) -> None:
    assert Claim("accuracy", claimed, measured, rows, of_rows=1000).met is met


def test_a_lower_error_than_claimed_meets_the_claim() -> None:
    assert Claim("rmse", 0.5, 0.1, 10, 10).met
    assert not Claim("rmse", 0.1, 0.5, 10, 10).met


def test_a_symbol_only_in_the_outputs_must_be_one_size_within_a_case() -> None:
    good = CaseRun({"y": np.zeros((2, 5, 2), np.float32)})
    assert check(SIGNATURE, Evidence(), cases(Kind.EXAMPLE), ran(good), {}).cases == ("example",)
    with pytest.raises(InvalidInput, match=r"declared FP32\[batch, beams, 2\], the model gives FP32\[3, 5, 2\]"):
        check(SIGNATURE, Evidence(), cases(Kind.EXAMPLE), ran(CaseRun({"y": np.zeros((3, 5, 2), np.float32)})), {})


def test_failing_on_an_extreme_is_a_warning_and_on_an_example_an_error() -> None:
    good, bad = CaseRun({"y": np.zeros((2, 5, 2), np.float32)}), CaseRun({}, "IndexError: 9")
    found = check(SIGNATURE, Evidence(), cases(Kind.EXAMPLE, Kind.EXTREME), ran(good, bad), {})
    assert "IndexError: 9" in found.warnings[0]
    with pytest.raises(InvalidInput, match="IndexError: 9"):
        check(SIGNATURE, Evidence(), cases(Kind.EXAMPLE), ran(bad), {})


def test_claims_without_labels_are_a_warning() -> None:
    good = CaseRun({"y": np.zeros((2, 5, 2), np.float32)})
    found = check(SIGNATURE, Evidence(), cases(Kind.EXAMPLE), ran(good), {"accuracy": 0.9})
    assert not found.claims
    assert "no dataset" in found.warnings[0]


def test_a_model_that_is_not_repeatable_is_refused() -> None:
    good = CaseRun({"y": np.zeros((2, 5, 2), np.float32)})
    with pytest.raises(InvalidInput, match="different outputs"):
        check(SIGNATURE, Evidence(), cases(Kind.EXAMPLE), ran(good, repeatable=False), {})
