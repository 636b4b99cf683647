"""A space that was measured whole, as it is stored: every point with what was predicted and what was measured."""

from __future__ import annotations

from pathlib import Path

import msgspec

from modelyard.domain.measurement import Fingerprint
from modelyard.domain.study import Aim, Point, Prediction, Result, TrialState

FOLDER = Path(__file__).parent / "data"


class Cell(msgspec.Struct, frozen=True):
    """One point: its prediction, the search measurement, and for the best points the many blocks measured again."""

    point: Point
    state: TrialState
    seconds: float
    prediction: Prediction | None = None
    result: Result | None = None
    again: Result | None = None
    detail: str = ""

    @property
    def truth(self) -> Result | None:
        """The best estimate there is of what the point really does."""
        return self.again or self.result


class Exhaustive(msgspec.Struct, frozen=True):
    """All cells of one model's space under one aim, on one machine."""

    model: str
    aim: Aim
    space: str
    default: Point
    fingerprint: Fingerprint
    created_at: str
    cells: tuple[Cell, ...]

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.model}.json"

    def save(self) -> None:
        """Write it where `load` finds it."""
        FOLDER.mkdir(exist_ok=True)
        self.path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def load(model: str) -> Exhaustive | None:
    """What is stored of a model; None where nothing is."""
    path = FOLDER / f"{model}.json"
    return msgspec.json.decode(path.read_bytes(), type=Exhaustive) if path.exists() else None


def stored() -> list[Exhaustive]:
    """Everything that is stored, by model."""
    return [found for path in sorted(FOLDER.glob("*.json")) if (found := load(path.stem)) is not None]
