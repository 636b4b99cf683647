"""Search strategies: one file each, found by name."""

from __future__ import annotations

from modelyard.tune.strategies.registry import DEFAULT, ENTRY_POINTS, Strategies

__all__ = ["DEFAULT", "ENTRY_POINTS", "Strategies"]
