"""Does the source do what its manifest says? Shapes and names on every case, claimed metrics on the dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from modelyard.convert import equivalence, metrics
from modelyard.convert.cases import Case, Cases, Evidence, Kind
from modelyard.convert.equivalence import CaseRun
from modelyard.convert.proof import SourceRun
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, TensorSpec

CLAIM_TOLERANCE = 0.005
"""How far a measured metric may stay behind its claim: claims are usually rounded to two digits."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A metric as claimed (None: only measured) and as measured on `rows` of the dataset's `of_rows`."""

    metric: str
    claimed: float | None
    measured: float
    rows: int
    of_rows: int

    @property
    def met(self) -> bool:
        """Whether the measured value is at least as good as the claim, within `CLAIM_TOLERANCE`.

        Where only a part of the dataset was run, a share (accuracy and the like) may also stay behind by two standard
        errors of its sample.
        """
        if self.claimed is None:
            return True
        allowed = CLAIM_TOLERANCE
        if self.rows < self.of_rows and 0.0 <= self.claimed <= 1.0:
            allowed += 2.0 * math.sqrt(max(self.claimed * (1.0 - self.claimed), 1e-4) / self.rows)
        return metrics.get(self.metric).loss(self.claimed, self.measured) <= allowed


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """A source that keeps its signature: its metrics, the cases it ran, and what is odd about it."""

    claims: tuple[Claim, ...]
    cases: tuple[str, ...]
    runtime: str
    load_s: float
    warnings: tuple[str, ...] = ()

    @property
    def unmet(self) -> tuple[Claim, ...]:
        """Claims that the dataset does not bear out."""
        return tuple(claim for claim in self.claims if not claim.met)


def check(
    signature: Signature, evidence: Evidence, cases: Cases, ran: SourceRun, claimed: Mapping[str, float]
) -> SourceCheck:
    """Judge the source's run. Raises InvalidInput where it contradicts its signature or fails on real input."""
    warnings = []
    for case, run in zip(cases.cases, ran.runs, strict=False):
        if run.error is not None:
            if case.kind is not Kind.EXTREME:
                raise _fails_on(case, run.error, signature, evidence)
            warnings.append(f"the model fails on generated input '{case.name}', which is left out: {run.error}")
            continue
        _check_outputs(signature, case, run)
    if not ran.repeatable:
        raise InvalidInput(
            "the model gives different outputs for the same input",
            why="it draws random numbers or keeps state between calls, so no conversion can be proven equal to it",
            hint="call model.eval() before saving (dropout), and remove random operators from forward",
        )
    if claimed and cases.truth is None:
        warnings.append("metrics are claimed but there is no dataset with labels to check them on")
    names = tuple(dict.fromkeys([*claimed, *evidence.metrics]))
    measured = equivalence.measure_dataset(names, evidence.task, signature, cases, ran.runs)
    claims = tuple(
        Claim(name, claimed.get(name), value, rows, cases.total_rows) for name, (value, rows) in measured.items()
    )
    worked = tuple(c.name for c, run in zip(cases.cases, ran.runs, strict=False) if run.error is None)
    return SourceCheck(claims, worked, ran.runtime, ran.load_s, tuple(warnings))


def _fails_on(case: Case, error: str, signature: Signature, evidence: Evidence) -> InvalidInput:
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in case.inputs.items())
    hint = "check inputs and outputs in the manifest against the model"
    if case.kind is not Kind.DATASET and evidence.dataset is None and evidence.samples is None:
        hint += "; if the model needs particular values, give a dataset or samples"
    if case.name.startswith("batch-") and signature.inputs[0].batched:
        hint += f"; if it takes one batch size only, write that number instead of '{signature.inputs[0].shape[0]}'"
    return InvalidInput(f"the model fails on {case.kind} input '{case.name}' ({shapes})", why=error, hint=hint)


def _check_outputs(signature: Signature, case: Case, run: CaseRun) -> None:
    sizes = {
        dim: size
        for spec in signature.inputs
        for dim, size in zip(spec.shape, case.inputs[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
    for spec in signature.outputs:
        got = run.outputs.get(spec.name)
        if got is None:
            raise InvalidInput(
                f"the model has no output '{spec.name}'",
                why=f"it gives {', '.join(run.outputs) or 'nothing'}",
                hint="correct the outputs in the manifest",
            )
        found = Datatype.of(got.dtype)
        if found is not spec.datatype or not _fits(spec, got.shape, sizes):
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in case.inputs.items())
            raise InvalidInput(
                f"output '{spec.name}' is declared {spec.datatype}[{', '.join(map(str, spec.shape))}], "
                f"the model gives {found}[{', '.join(map(str, got.shape))}]",
                why=f"for {shapes}",
                hint="correct the outputs in the manifest",
            )


def _fits(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Numbers must match; a symbol must have the size it has in the inputs, or elsewhere in the outputs."""
    if len(spec.shape) != len(shape):
        return False
    return all(
        size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
        for dim, size in zip(spec.shape, shape, strict=True)
    )
