"""Default tolerances by precision: what still counts as equal to the source.

| precision | max abs | max rel | mismatching elements | min cosine | min decision agreement | max metric loss |
|---|---|---|---|---|---|---|
| fp32, fp64 | 1e-4 | 1e-3 | none | 0.9999 | 0.999 | 0.001 |
| fp32 of tree ensembles and scikit-learn | 1e-4 | 1e-3 | 1 % | 0.999 | 0.99 | 0.005 |
| fp16 | 1e-2 | 1e-2 | 1 % | 0.999 | 0.99 | 0.005 |
| bf16 | 5e-2 | 5e-2 | 5 % | 0.999 | 0.98 | 0.01 |
| int8 | not judged elementwise | | 100 % | 0.98 | 0.97 | 0.01 |

- `max abs` is in units of the output's scale in that case (its root mean square in the source, where above 1):
  rounding grows with the numbers that are summed, and an input of 1000 is among the cases.
- Trees compare a feature with a threshold, so a last-bit difference sends a row down another branch: a fraction of
  the elements may differ by any amount, the others must agree in full. scikit-learn computes in double.
- int8 is an approximation by design: the decision, the direction of the output and the task metric judge it.
"""

from __future__ import annotations

from modelyard.domain.artifacts import LIGHTGBM, SKLEARN, XGBOOST, Precision, Target, Tolerance

_STRICT = Tolerance(1e-4, 1e-3, 0.0, 0.9999, 0.999, 0.001)
_TREES = Tolerance(1e-4, 1e-3, 0.01, 0.999, 0.99, 0.005)
DEFAULTS: dict[Precision, Tolerance] = {
    Precision.FP64: _STRICT,
    Precision.FP32: _STRICT,
    Precision.FP16: Tolerance(1e-2, 1e-2, 0.01, 0.999, 0.99, 0.005),
    Precision.BF16: Tolerance(5e-2, 5e-2, 0.05, 0.999, 0.98, 0.01),
    Precision.INT8: Tolerance(0.0, 0.0, 1.0, 0.98, 0.97, 0.01),
}
_CLASSICAL = frozenset({SKLEARN, XGBOOST, LIGHTGBM})


def default_tolerance(source: Target, precision: Precision) -> Tolerance:
    """The default for an artifact of `precision` made from `source`."""
    if source.format in _CLASSICAL and precision in (Precision.FP32, Precision.FP64):
        return _TREES
    return DEFAULTS[precision]
