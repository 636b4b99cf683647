"""What a long-running use case tells its caller while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class Step(StrEnum):
    """The steps of the pipeline, in order."""

    REGISTER = "register"
    CONVERT = "convert"
    PROVE = "prove"
    PROFILE = "profile"
    TUNE = "tune"
    CHOOSE = "choose"
    DEPLOY = "deploy"
    PREDICT = "predict"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of progress: the step, what happens, and how far the step is (0 to 1) where that is known."""

    step: Step
    message: str
    fraction: float | None = None


Listener: TypeAlias = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """The listener that ignores progress."""
