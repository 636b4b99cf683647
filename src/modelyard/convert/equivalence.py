"""The verdict on an artifact: its outputs against its source's on the same cases. Pure numpy.

How it is judged, in this order; the first that fails is the reason:

1. It must run on every case the source runs on, with the declared names, datatypes and shapes (`run-failed`,
   `output-mismatch`). If it fails only at batch sizes other than the example's, the reason is `batch-baked-in`.
2. Where the source is finite it must be finite (`non-finite`). Where the source itself is not, the artifact must not
   be either; such elements count as agreeing and enter no error. Precisions below fp32 may overflow on the
   `large` case.
3. Elements, direction and decisions within the tolerance (`numerical-error`, `decision-disagreement`). Precisions
   below fp32 are not judged by value on extremes: saturating there is what a narrow range does.
4. The task metric on the dataset loses at most `max_metric_loss` (`metric-loss`).

A row whose source scores tie within the fp32 tolerance has no decision to disagree about and counts as agreeing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.convert import metrics
from modelyard.convert.cases import Case, Cases, Kind
from modelyard.domain.artifacts import (
    Equivalence,
    MetricAgreement,
    Outcome,
    OutputAgreement,
    Precision,
    RejectionReason,
    Tolerance,
)
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Signature, Tensor, Tensors, TensorSpec

_TIE_ABS, _TIE_REL = 1e-4, 1e-3


@dataclass(frozen=True, slots=True)
class CaseRun:
    """What a model made of one case: outputs, or the error."""

    outputs: Tensors
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is judged: the model's signature and task, the artifact's precision and runtime, the rules."""

    signature: Signature
    task: str
    metrics: tuple[str, ...]
    precision: Precision
    tolerance: Tolerance
    runtime: str


@dataclass(frozen=True, slots=True)
class _Fault:
    case: Case
    reason: RejectionReason
    detail: str


def compare(subject: Subject, cases: Cases, source: Sequence[CaseRun], artifact: Sequence[CaseRun]) -> Equivalence:
    """Judge the artifact's runs against the source's. Cases on which the source itself fails are left out."""
    outputs_wanted = {spec.name for spec in subject.signature.outputs}
    paired = [
        (case, s, a)
        for case, s, a in zip(cases.cases, source, artifact, strict=False)
        if s.error is None and outputs_wanted <= s.outputs.keys()
    ]
    names = tuple(case.name for case, _, _ in paired)
    outputs: tuple[OutputAgreement, ...] = ()
    measured: tuple[MetricAgreement, ...] = ()

    def verdict(reason: RejectionReason | None, detail: str) -> Equivalence:
        return Equivalence(
            outcome=Outcome.REJECTED if reason else Outcome.PROVEN,
            reason=reason,
            detail=detail,
            cases=names,
            outputs=outputs,
            metrics=measured,
            tolerance=subject.tolerance,
            runtime=subject.runtime,
        )

    if not paired:
        return verdict(RejectionReason.RUN_FAILED, "the source ran on no case, so there is nothing to compare with")
    faults = [fault for case, s, a in paired for fault in _structural(subject, case, s, a)]
    if faults:
        return verdict(*_name_faults(faults, [case for case, _, _ in paired]))
    agreement = [_Agreement(subject, spec, paired) for spec in subject.signature.outputs]
    outputs = tuple(a.value for a in agreement)
    measured = _task_metrics(subject, cases, source, artifact)
    wrong = [fault for a in agreement for fault in a.faults]
    if wrong:
        return verdict(*_name_faults(wrong, [case for case, _, _ in paired]))
    problem = _judge_outputs(subject, outputs) or _judge_metrics(subject, measured)
    return verdict(*problem) if problem else verdict(None, _summary(outputs, measured))


def _structural(subject: Subject, case: Case, source: CaseRun, artifact: CaseRun) -> list[_Fault]:
    if artifact.error is not None:
        return [_Fault(case, RejectionReason.RUN_FAILED, f"it fails on case '{case.name}': {artifact.error}")]
    for spec in subject.signature.outputs:
        want, got = source.outputs[spec.name], artifact.outputs.get(spec.name)
        if got is None:
            detail = f"output '{spec.name}' is missing; it has {', '.join(artifact.outputs)}"
        elif got.shape != want.shape:
            detail = f"output '{spec.name}' has shape {list(got.shape)} on case '{case.name}', not {list(want.shape)}"
        elif got.dtype != want.dtype:
            detail = f"output '{spec.name}' is {Datatype.of(got.dtype)}, not {Datatype.of(want.dtype)}"
        else:
            continue
        return [_Fault(case, RejectionReason.OUTPUT_MISMATCH, detail)]
    return []


def _name_faults(faults: Sequence[_Fault], cases: Sequence[Case]) -> tuple[RejectionReason, str]:
    """The reason of the first fault, or `batch-baked-in` where exactly the cases of other batch sizes fail."""
    first = faults[0]
    rows = next((case.rows for case in cases if case.kind is Kind.EXAMPLE), 0)
    failing = {fault.case.name for fault in faults}
    others = {case.name for case in cases if case.rows != rows and case.name != "resized"}
    if rows and others and failing == others:
        sizes = sorted({case.rows for case in cases if case.name in others})
        return (
            RejectionReason.BATCH_BAKED_IN,
            f"it agrees at the {rows} rows it was converted with, and fails at {_listed(sizes)}: {first.detail}",
        )
    return first.reason, first.detail


def _listed(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes[:4]))


class _Agreement:
    """Agreement of one output over all cases: the figures, and the faults that show in single cases."""

    def __init__(self, subject: Subject, spec: TensorSpec, paired: Sequence[tuple[Case, CaseRun, CaseRun]]) -> None:
        self._subject = subject
        self._spec = spec
        self._classifies = metrics.is_classifier(subject.task, subject.signature)
        self._low = subject.precision not in (Precision.FP32, Precision.FP64)
        self.faults: list[_Fault] = []
        self._elements = self._missed = 0
        self._max_abs = self._max_rel = 0.0
        self._cosines: list[float] = []
        self._agreeing = self._decided = 0
        for case, source, artifact in paired:
            self._add(case, source.outputs[spec.name], artifact.outputs[spec.name])

    @property
    def value(self) -> OutputAgreement:
        return OutputAgreement(
            output=self._spec.name,
            elements=self._elements,
            max_abs_error=self._max_abs,
            max_rel_error=self._max_rel,
            cosine=min(self._cosines, default=1.0),
            mismatch_fraction=self._missed / self._elements if self._elements else 0.0,
            decision_agreement=self._agreeing / self._decided if self._decided else None,
        )

    def _add(self, case: Case, source: Tensor, artifact: Tensor) -> None:
        if source.dtype.kind != "f":
            self._add_exact(case, source, artifact)
            return
        s, a = source.astype(np.float64), artifact.astype(np.float64)
        finite = np.isfinite(s)
        bad = finite & ~np.isfinite(a)
        if bad.any() and not (self._low and case.name == "large"):
            detail = f"output '{self._spec.name}' is not finite on case '{case.name}', where the source is"
            self.faults.append(_Fault(case, RejectionReason.NON_FINITE, detail))
            return
        if self._low and case.kind is Kind.EXTREME:
            return
        revived = ~finite & np.isfinite(a)
        self._add_errors(case, s, a, finite, int(revived.sum()))
        if self._classifies:
            self._add_decisions(s, a)

    def _add_errors(self, case: Case, s: NDArray[Any], a: NDArray[Any], finite: NDArray[Any], revived: int) -> None:
        tolerance = self._subject.tolerance
        kept_s, kept_a = s[finite], a[finite]
        error = np.abs(kept_a - kept_s)
        scale = max(1.0, float(np.sqrt(np.mean(kept_s**2)))) if kept_s.size else 1.0
        missed = error > tolerance.max_abs * scale + tolerance.max_rel * np.abs(kept_s)
        count = int(missed.sum()) + revived
        self._elements += s.size
        self._missed += count
        if error.size:
            self._max_abs = max(self._max_abs, float(error.max()))
            # Relative to at least the output's scale: an error beside an exact zero is no infinite error.
            floor = max(1e-12, float(np.sqrt(np.mean(kept_s**2))) * 1e-3)
            self._max_rel = max(self._max_rel, float((error / np.maximum(np.abs(kept_s), floor)).max()))
            self._cosines.append(_cosine(kept_s, kept_a))
        if tolerance.mismatch_fraction == 0.0 and count:
            worst = float(error.max()) if error.size else float("nan")
            detail = (
                f"output '{self._spec.name}' differs on case '{case.name}': {count} of {s.size} elements beyond "
                f"{tolerance.max_abs:g} x scale {scale:.3g} + {tolerance.max_rel:g} x value; worst {worst:.3g}"
            )
            reason = RejectionReason.NON_FINITE if revived == count else RejectionReason.NUMERICAL_ERROR
            self.faults.append(_Fault(case, reason, detail))

    def _add_exact(self, case: Case, source: Tensor, artifact: Tensor) -> None:
        """Integers, booleans and strings: equal or not. A row's label agrees when all its elements do."""
        if self._low and case.kind is Kind.EXTREME:
            return
        equal = np.asarray(source == artifact)
        self._elements += equal.size
        self._missed += int((~equal).sum())
        if source.dtype.kind in "iu" and equal.size:
            self._max_abs = max(
                self._max_abs, float(np.abs(source.astype(np.float64) - artifact.astype(np.float64)).max())
            )
        rows = equal.reshape(len(equal), -1).all(axis=1) if equal.ndim else equal.reshape(1)
        self._decided += rows.size
        self._agreeing += int(rows.sum())

    def _add_decisions(self, s: NDArray[Any], a: NDArray[Any]) -> None:
        if s.ndim != 2 or s.shape[0] == 0 or not np.isfinite(s).all():
            return
        if s.shape[1] == 1:
            ds, da = metrics.decisions(s[:, 0]), metrics.decisions(a[:, 0])
            tie = np.zeros(len(s), dtype=bool)
        else:
            ds, da = s.argmax(axis=1), np.nan_to_num(a, nan=-np.inf).argmax(axis=1)
            rows = np.arange(len(s))
            best = s[rows, ds]
            scale = max(1.0, float(np.sqrt(np.mean(s**2))))
            tie = np.abs(best - s[rows, da]) <= _TIE_ABS * scale + _TIE_REL * np.abs(best)
        self._decided += len(s)
        self._agreeing += int(((ds == da) | tie).sum())


def _cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    top = max(float(np.abs(a).max()), float(np.abs(b).max()))
    if top == 0.0:
        return 1.0
    a, b = a / top, b / top  # large values would overflow when squared
    norm_a, norm_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    small, big = sorted((norm_a, norm_b))
    if small < 1e-9 * big:
        return 1.0 if small == big else 0.0
    return float(np.clip(np.dot(a / norm_a, b / norm_b), -1.0, 1.0))


def _judge_outputs(subject: Subject, outputs: Sequence[OutputAgreement]) -> tuple[RejectionReason, str] | None:
    tolerance = subject.tolerance
    specs = {spec.name: spec for spec in subject.signature.outputs}
    for output in outputs:
        label = specs[output.output].datatype.numpy.kind != "f"
        agreement = output.decision_agreement
        if agreement is not None and agreement < tolerance.min_decision_agreement:
            return RejectionReason.DECISION_DISAGREEMENT, (
                f"output '{output.output}': {agreement:.2%} of the decisions agree, "
                f"{tolerance.min_decision_agreement:.2%} are needed"
            )
        if label:
            continue
        if output.mismatch_fraction > tolerance.mismatch_fraction:
            return RejectionReason.NUMERICAL_ERROR, (
                f"output '{output.output}': {output.mismatch_fraction:.2%} of the elements differ, at most "
                f"{tolerance.mismatch_fraction:.2%} may; worst error {output.max_abs_error:.3g}"
            )
        if output.cosine < tolerance.min_cosine:
            return RejectionReason.NUMERICAL_ERROR, (
                f"output '{output.output}': cosine {output.cosine:.5f}, {tolerance.min_cosine:g} is needed"
            )
    return None


def _judge_metrics(subject: Subject, measured: Sequence[MetricAgreement]) -> tuple[RejectionReason, str] | None:
    for agreement in measured:
        loss = metrics.get(agreement.metric).loss(agreement.source, agreement.artifact)
        if not loss <= subject.tolerance.max_metric_loss:
            return RejectionReason.METRIC_LOSS, (
                f"{agreement.metric} falls from {agreement.source:.4f} to {agreement.artifact:.4f} on "
                f"{agreement.rows} rows; a loss of {subject.tolerance.max_metric_loss:g} is allowed"
            )
    return None


def _task_metrics(
    subject: Subject, cases: Cases, source: Sequence[CaseRun], artifact: Sequence[CaseRun]
) -> tuple[MetricAgreement, ...]:
    """The task metrics of both on the dataset rows that both have run."""
    both = min(len(source), len(artifact))
    found = measure_dataset(subject.metrics, subject.task, subject.signature, cases, source[:both])
    other = measure_dataset(subject.metrics, subject.task, subject.signature, cases, artifact[:both])
    return tuple(
        MetricAgreement(name, value, other[name][0], rows) for name, (value, rows) in found.items() if name in other
    )


def measure_dataset(
    names: Sequence[str], task: str, signature: Signature, cases: Cases, runs: Sequence[CaseRun]
) -> dict[str, tuple[float, int]]:
    """Each metric of `runs` on the dataset and the rows it is from; empty without labels.

    Without `names` it is the task's default, if that can be computed. Raises InvalidInput for a named one."""
    truth = cases.truth
    chunks = [(c, r) for c, r in zip(cases.cases, runs, strict=False) if c.kind is Kind.DATASET]
    if truth is None or not chunks or any(run.error for _, run in chunks):
        return {}
    if any(len({run.outputs[spec.name].shape[1:] for _, run in chunks}) > 1 for spec in signature.outputs):
        if not names:
            return {}
        raise InvalidInput(
            f"metric '{names[0]}' cannot be computed",
            why="the outputs of different rows differ in size, as the rows do",
            hint="leave out metrics: in the manifest; the outputs themselves are compared all the same",
        )
    outputs = {spec.name: np.concatenate([run.outputs[spec.name] for _, run in chunks]) for spec in signature.outputs}
    rows = len(next(iter(outputs.values())))
    if names:
        return {name: (metrics.measure(name, truth[:rows], outputs, signature), rows) for name in names}
    default = metrics.default_for(task, signature)
    try:
        return {default: (metrics.measure(default, truth[:rows], outputs, signature), rows)}
    except InvalidInput:  # nobody asked for it, and labels may be of another kind (boxes, text)
        return {}


def _summary(outputs: Sequence[OutputAgreement], measured: Sequence[MetricAgreement]) -> str:
    worst = max((o.max_abs_error for o in outputs), default=0.0)
    parts = [f"max error {worst:.2g}", f"cosine {min((o.cosine for o in outputs), default=1.0):.6f}"]
    decisions = [o.decision_agreement for o in outputs if o.decision_agreement is not None]
    if decisions:
        parts.append(f"decisions {min(decisions):.2%}")
    parts += [f"{m.metric} {m.source:.4f} -> {m.artifact:.4f}" for m in measured]
    return ", ".join(parts)
