"""Pre- and postprocessing: the steps of a manifest as a pipeline that a server runs around the model.

before = Pipeline.build(definition.preprocess, directory, Phase.BEFORE)
after = Pipeline.build(definition.postprocess, directory, Phase.AFTER)
outer = after.outer_signature(before.outer_signature(signature))     # what clients see
outputs = after.apply(model(before.apply(inputs)))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Signature, Tensors
from modelyard.domain.versions import StepSpec
from modelyard.manifest import image_steps, tensor_steps
from modelyard.manifest.problems import Problems, nearest
from modelyard.manifest.python_step import PythonStep
from modelyard.manifest.step import Step
from modelyard.manifest.step_options import (
    AFTER,
    BEFORE,
    Argmax,
    Cast,
    DecodeImage,
    Normalize,
    PythonAfter,
    PythonBefore,
    Reshape,
    Resize,
    Scale,
    Softmax,
    StepOptions,
    TopK,
)


class Phase(StrEnum):
    """Whether a pipeline runs before the model (on its inputs) or after it (on its outputs)."""

    BEFORE = "preprocess"
    AFTER = "postprocess"


@dataclass(frozen=True)
class Pipeline:
    """Steps in the order they run. Thread-safe: steps hold no state (Python steps are the version's own affair)."""

    steps: tuple[Step, ...]
    phase: Phase

    @classmethod
    def build(cls, steps: tuple[StepSpec, ...], directory: Path, phase: Phase = Phase.BEFORE) -> Pipeline:
        """Make a pipeline of a definition's steps; `directory` holds the version's files (labels, Python modules).

        Python code is loaded by the first `apply`, not here. Raises InvalidInput for a wrong step.
        """
        return cls(tuple(_build(i, step, directory, phase) for i, step in enumerate(steps)), phase)

    def outer_signature(self, inner: Signature) -> Signature:
        """The signature as clients see it: raw inputs instead of the model's, final outputs instead of the model's.

        Raises InvalidInput where the steps do not fit each other or the model.
        """
        before = self.phase is Phase.BEFORE
        specs = {spec.name: spec for spec in (inner.inputs if before else inner.outputs)}
        numbered = list(enumerate(self.steps))
        for i, step in reversed(numbered) if before else numbered:
            try:
                specs = step.specs_before(specs) if before else step.specs_after(specs)
            except InvalidInput as error:
                raise InvalidInput(
                    f"{self.phase}[{i}] ({step.kind}): {error.what}", why=error.why, hint=error.hint
                ) from error
        outer = tuple(specs.values())
        return replace(inner, inputs=outer) if before else replace(inner, outputs=outer)

    def apply(self, tensors: Tensors) -> dict[str, Any]:
        """Run the steps on a batch of tensors.

        Raises InvalidInput for tensors the steps cannot take, BackendFailed where the version's own code fails.
        """
        result = dict(tensors)
        for step in self.steps:
            result = step.apply(result)
        return result

    def undo(self, tensors: Tensors) -> dict[str, Any]:
        """Raw inputs that the steps would turn into about `tensors`: realistic requests from the rows of a dataset.

        Rounding and image compression change values a little. Raises Unsupported for a step of the version's own code.
        """
        result = dict(tensors)
        for step in reversed(self.steps):
            result = step.undo(result)
        return result

    def __bool__(self) -> bool:
        return bool(self.steps)


def _build(index: int, spec: StepSpec, directory: Path, phase: Phase) -> Step:
    kinds: Mapping[str, type[StepOptions]] = BEFORE if phase is Phase.BEFORE else AFTER
    if spec.kind not in kinds:
        raise InvalidInput(f"unknown {phase} step '{spec.kind}'{nearest(spec.kind, kinds)}")
    try:
        options = kinds[spec.kind].model_validate({"kind": spec.kind, **spec.options})
    except ValidationError as error:
        problems = Problems(f"{phase}[{index}] ({spec.kind})")
        problems.add_validation((), kinds[spec.kind], error)
        problems.raise_if_any()
        raise InvalidInput(f"{phase}[{index}] ({spec.kind}) is wrong", why=str(error)) from error
    return _step(options, directory)


def _step(options: StepOptions, directory: Path) -> Step:
    match options:
        case DecodeImage():
            return image_steps.DecodeImageStep(options)
        case Resize():
            return image_steps.ResizeStep(options)
        case Normalize():
            return image_steps.NormalizeStep(options)
        case Cast():
            return tensor_steps.CastStep(options)
        case Scale():
            return tensor_steps.ScaleStep(options)
        case Reshape():
            return tensor_steps.ReshapeStep(options)
        case Softmax():
            return tensor_steps.SoftmaxStep(options)
        case Argmax():
            return tensor_steps.ArgmaxStep(options)
        case TopK():
            return tensor_steps.TopKStep(options, tensor_steps.read_labels(options, directory))
        case PythonBefore():
            return PythonStep(options.function, options.inputs, directory)
        case PythonAfter():
            return PythonStep(options.function, options.outputs, directory)
    raise InvalidInput(f"no step for {type(options).__name__}")
