"""The search for the best configuration: spaces, strategies, the runner and what its answer means (docs/tuning.md)."""

from __future__ import annotations

from modelyard.tune.knobs import Choice, Integer, Real
from modelyard.tune.space import Space

__all__ = ["Choice", "Integer", "Real", "Space"]
