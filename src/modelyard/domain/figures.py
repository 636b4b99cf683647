"""Measured numbers as people read them."""

from __future__ import annotations

import math


def figure(value: float) -> str:
    """Three significant digits with thousands separators; an exponent only below a thousandth: `0.0123`, `72,900`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.2g}"
    rounded = float(f"{value:.2e}")
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"
