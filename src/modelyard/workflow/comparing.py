"""Which two measurements to hold against each other when two names are given."""

from __future__ import annotations

from itertools import product

from modelyard.domain.errors import NotFound
from modelyard.domain.measurement import Measurement, Validity
from modelyard.domain.versions import ModelRef
from modelyard.hub import Hub


def comparable(hub: Hub, a: str, b: str) -> tuple[Measurement, Measurement]:
    """Two measurements named by their ids (or beginnings), or by versions: then those of what was chosen last.

    Of a version's chosen configuration there may be several measurements; two that were made with the same schedules on
    the same node are preferred, for their blocks compare in pairs. Raises NotFound, InvalidInput.
    """
    pairs = product(_candidates(hub, a), _candidates(hub, b))
    first = next(pairs)
    alike = ((x, y) for x, y in (first, *pairs) if (x.workload, x.fingerprint.id) == (y.workload, y.fingerprint.id))
    return next(alike, first)


def _candidates(hub: Hub, name: str) -> list[Measurement]:
    """At least one; the first is the one to take where none fits better. `digits:1` and `digits@x` are versions."""
    if ":" not in name and "@" not in name:
        try:
            return [hub.measurements.get(name)]
        except NotFound:
            pass  # then it is a model, or unknown as both
    return _of_version(hub, name)


def _of_version(hub: Hub, name: str) -> list[Measurement]:
    ref = ModelRef.parse(name)
    decisions = [d for d in hub.decisions.list(ref) if d.chosen]
    if not decisions or decisions[-1].chosen is None:
        raise NotFound(
            f"nothing was chosen of {name} yet",
            hint=f"yard publish {name}, or give ids as yard measurements ls {name} shows them",
        )
    chosen = hub.measurements.get(decisions[-1].chosen)
    others = [
        m
        for m in reversed(hub.measurements.list(ref))
        if m.configuration == chosen.configuration and m.id != chosen.id and m.verdict.validity is not Validity.INVALID
    ]
    return [chosen, *others]
