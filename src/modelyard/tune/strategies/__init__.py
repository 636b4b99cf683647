"""Search strategies: one file each, found by name."""

from __future__ import annotations

from modelyard.tune.strategies.registry import ENTRY_POINTS, Strategies

__all__ = ["ENTRY_POINTS", "Strategies"]
