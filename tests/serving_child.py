"""A replica process whose runtime is scripted by the artifact's `options`: run as `python -m tests.serving_child`.

`behaviour`: `echo` (outputs are the inputs), `scale` (twice the input), `poison` (raises if any value is 666),
`sleep` (seconds in `seconds`), `short` (one row too few), `fewer` (no output if any value is 666), `strings` (upper
case), `gate` (waits for the file `gate`), `refuse` (fails to load), `add` (adds the number in `add`), `tracked` (how
many objects a full garbage collection would look at). Loading makes the file `loading`, waits for the file `load_gate`,
if they are given, and allocates `megabytes` and `objects`. Each execution appends its number of rows to the file
`journal`, if given.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.domain.artifacts import LocalArtifact
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensors
from modelyard.runtimes.ports import Availability, Containment, RuntimeOptions
from modelyard.runtimes.registry import Runtimes
from modelyard.serving.__main__ import main


class ScriptedPredictor:
    def __init__(self, artifact: LocalArtifact) -> None:
        self.settings: dict[str, str] = {}
        self.signature = artifact.signature
        self._options = artifact.options
        self._weights: np.ndarray | None = np.ones(int(artifact.options.get("megabytes", "0")) << 20, np.uint8)
        self._objects = [[k] for k in range(int(artifact.options.get("objects", "0")))]

    def predict(self, inputs: Tensors) -> dict[str, Any]:
        options = self._options
        arrays = list(inputs.values())
        if journal := options.get("journal"):
            with Path(journal).open("a") as file:
                file.write(f"{len(arrays[0]) if arrays[0].ndim else 1}\n")
        match options["behaviour"]:
            case "poison":
                if any((a == 666).any() for a in arrays):
                    raise ValueError("poisoned")
            case "sleep":
                time.sleep(float(options["seconds"]))
            case "gate":
                time.sleep(0.005)  # dear enough to run on the worker thread
                while not Path(options["gate"]).exists():
                    time.sleep(0.002)
            case "scale":
                arrays = [a * a.dtype.type(2) for a in arrays]
            case "add":
                arrays = [a + a.dtype.type(options["add"]) for a in arrays]
            case "short":
                if len(arrays[0]) > 1:
                    arrays = [a[:-1] for a in arrays]
            case "fewer":
                if any((a == 666).any() for a in arrays):
                    return {}
            case "tracked":
                arrays = [np.full_like(a, len(gc.get_objects())) for a in arrays]
            case "strings":
                arrays = [np.array([v.upper() for v in a.ravel()], object).reshape(a.shape) for a in arrays]
            case "moody":
                for value in arrays[0].ravel().tolist():
                    moody(value)
                arrays = [a * a.dtype.type(2) for a in arrays]
            case "write":
                for a in arrays:
                    a += a.dtype.type(1)
        return {spec.name: a for spec, a in zip(self.signature.outputs, arrays, strict=True)}

    def close(self) -> None:
        self._weights = None
        if closed := self._options.get("closed"):
            with Path(closed).open("a") as file:
                file.write("closed\n")


def moody(value: float) -> None:
    match value:
        case 666:
            raise ValueError("poisoned")
        case 667:
            while True:
                time.sleep(1)
        case 668:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 669:
            hoard = []
            while True:
                hoard.append(np.ones(1 << 20))
        case 670:
            print("a word from the model")


class ScriptedRuntime:
    name = "scripted"
    formats = frozenset({"scripted"})

    def availability(self) -> Availability:
        return Availability(True)

    def containment(self, artifact: LocalArtifact) -> Containment:
        return Containment.UNCONTAINED if artifact.options["behaviour"] == "moody" else Containment.BOUNDED

    def load(self, artifact: LocalArtifact, options: RuntimeOptions) -> ScriptedPredictor:
        refused = artifact.options.get("refused")
        if artifact.options["behaviour"] == "refuse" or (refused and Path(refused).exists()):
            raise InvalidInput("the file is no model")
        if loading := artifact.options.get("loading"):
            Path(loading).touch()
        while (gate := artifact.options.get("load_gate")) and not Path(gate).exists():
            time.sleep(0.002)
        return ScriptedPredictor(artifact)


if __name__ == "__main__":
    sys.exit(main(runtimes=Runtimes([ScriptedRuntime()])))
