"""A replica whose models answer with a constant: what serving costs without a model (`profile.overhead`).

Run as `python -m modelyard.serving.constant --spec replica.json`. The artifact's option `seconds` makes each run sleep.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.tensors import Tensor, Tensors
from modelyard.runtimes.ports import Availability, Containment, RuntimeOptions
from modelyard.runtimes.registry import Runtimes
from modelyard.serving.__main__ import main

_ROWS = 64
"""Rows of the constants kept; larger batches repeat them."""


class ConstantPredictor:
    """Answers with the same random rows, whatever it is asked."""

    def __init__(self, artifact: LocalArtifact) -> None:
        self.settings: dict[str, str] = {}
        self.signature = artifact.signature
        self._seconds = float(artifact.options.get("seconds", "0"))
        rng = np.random.default_rng(0)
        self._rows = {
            spec.name: rng.standard_normal((_ROWS, *(int(d) for d in spec.shape[1:])), np.float32)
            for spec in artifact.signature.outputs
        }

    def predict(self, inputs: Tensors) -> dict[str, Tensor]:
        """As many rows as were given."""
        if self._seconds:
            time.sleep(self._seconds)
        count = len(next(iter(inputs.values())))
        if count <= _ROWS:
            return {name: rows[:count] for name, rows in self._rows.items()}
        return {name: rows[np.arange(count) % _ROWS] for name, rows in self._rows.items()}

    def close(self) -> None:
        """Nothing to free."""


class ConstantRuntime:
    """Loads what needs no file."""

    name = "constant"
    formats = frozenset({"constant"})

    def availability(self) -> Availability:
        """Always."""
        return Availability(True)

    def containment(self, artifact: LocalArtifact) -> Containment:  # noqa: ARG002 - the Protocol's
        """A run always returns."""
        return Containment.BOUNDED

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> ConstantPredictor:  # noqa: ARG002
        """A predictor of the artifact's signature: FP32, the first dimension a batch, the others fixed."""
        return ConstantPredictor(artifact)


if __name__ == "__main__":
    sys.exit(main(runtimes=Runtimes([ConstantRuntime()])))
