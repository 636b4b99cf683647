"""A decision: which measured configuration of a version was chosen, against what, and why."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.domain.configuration import Slo


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of a publish, by measurement ids. `met` is None without an SLO.

    `chosen` is None where nothing could be trusted. `naive` is what one would deploy without Modelyard; `cost_ratio`
    its cost per request over the chosen one's, None where one of the two has no valid number.
    """

    id: str
    model: str
    version: int
    chosen: str | None
    naive: str | None
    considered: tuple[str, ...]
    slo: Slo | None
    met: bool | None
    reason: str
    cost_ratio: float | None = None
    created_at: str = ""
