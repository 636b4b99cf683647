"""From an exception in a child to a named failure class with a hint.

The classifier matches the exception's type and text, first rule first; what matches nothing is `converter-error`.
The rules were written from messages of torch 2.13, onnx 1.23, onnxruntime 1.31, openvino 2026.4 and skl2onnx 1.20.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelyard.convert.sandbox import End, Report
from modelyard.convert.tasks import Problem
from modelyard.domain.artifacts import FailureClass, RejectionReason

HINTS: dict[FailureClass, str] = {
    FailureClass.UNSUPPORTED_OPERATOR: "replace the operator in the model, or choose another target format",
    FailureClass.DATA_DEPENDENT_CONTROL_FLOW: "express the branch with torch.where or torch.cond, make the module "
    "scriptable (torch.jit.script), or serve the source format",
    FailureClass.DYNAMIC_SHAPE_LOST: "remove code that fixes a size (int(x.shape[0]), .view with constants), or "
    "declare the dimension as a number in the manifest",
    FailureClass.MISSING_DEPENDENCY: "install the extra that brings the converter, e.g. pip install 'modelyard[onnx]'",
    FailureClass.NO_ROUTE: "see `yard convert --help` for the targets that this source format can reach",
    FailureClass.INVALID_MODEL: "check that the file loads in its own framework and matches the manifest's signature",
    FailureClass.UNTRUSTED: "store the model in a safe format (skops, safetensors, .ubj), or allow it with "
    "`--trust` or `trust: true` if you know who made it",
    FailureClass.NO_CALIBRATION_DATA: "add `dataset:` to the manifest, or samples, so that int8 ranges can be measured",
    FailureClass.OUT_OF_MEMORY: "raise MODELYARD_CONVERT_MEMORY_BYTES, the memory limit of one conversion, or convert "
    "on a larger machine",
    FailureClass.TIMED_OUT: "raise MODELYARD_CONVERT_TIMEOUT_S, the time limit of one conversion, or choose another "
    "target format",
    FailureClass.CRASHED: "the converter itself broke: see the log, try another version of it or another target",
    FailureClass.CONVERTER_ERROR: "see the conversion's log for the traceback",
    FailureClass.UNSUPPORTED_DEVICE: "convert on a machine whose CPU has the feature, or choose another precision",
}

_RULES: tuple[tuple[FailureClass, re.Pattern[str]], ...] = tuple(
    (failure, re.compile(pattern, re.IGNORECASE))
    for failure, pattern in (
        (FailureClass.OUT_OF_MEMORY, r"MemoryError|bad_alloc|DefaultCPUAllocator: can't allocate|out of memory"),
        (FailureClass.MISSING_DEPENDENCY, r"ModuleNotFoundError|No module named|ImportError"),
        (
            FailureClass.DATA_DEPENDENT_CONTROL_FLOW,
            r"data.dependent|GuardOnDataDependent|DynamicControlFlow|Could not guard on|PendingUnbackedSymbol"
            r"|unbacked symint|dynamic control flow",
        ),
        (
            FailureClass.DYNAMIC_SHAPE_LOST,
            r"ConstraintViolation|Constraints violated|marked .* as dynamic but .* specialized|was inferred to be a "
            r"constant|specialized (it )?to",
        ),
        (
            FailureClass.UNSUPPORTED_OPERATOR,
            r"UnsupportedOperator|Unsupported operator|No (ONNX function|decomposition) found|NOT_IMPLEMENTED"
            r"|not been implemented|OpConversionFailure|cannot be converted|No conversion rule|MissingShapeCalculator"
            r"|MissingConverter|Unable to find a (shape calculator|converter)|is not supported|aten::\S+ .*export"
            r"|NotImplementedError|DispatchError|unconverted operation|not currently supported|is not implemented",
        ),
        (FailureClass.UNTRUSTED, r"UntrustedTypesFound|weights_only|UnpicklingError|not trusted|untrusted"),
        (
            FailureClass.INVALID_MODEL,
            r"InvalidProtobuf|INVALID_PROTOBUF|InvalidGraph|INVALID_GRAPH|PytorchStreamReader|SafetensorError"
            r"|checker\.ValidationError|size mismatch for|Missing key\(s\) in state_dict|Unexpected key\(s\)",
        ),
    )
)
_LEAVES = {
    "InvalidInput": FailureClass.INVALID_MODEL,
    "Rejected": FailureClass.UNTRUSTED,
    "Unsupported": FailureClass.UNSUPPORTED_OPERATOR,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A named failure: its class, what happened in one sentence, what to try."""

    failure: FailureClass
    detail: str
    hint: str


def of(failure: FailureClass, detail: str, hint: str = "") -> Failure:
    """A failure with the class's own hint unless a better one is given."""
    return Failure(failure, detail, hint or HINTS[failure])


def of_report(report: Report) -> Failure | None:
    """The failure that a child's end or answer shows; None if it did its work. Cancelled counts as crashed."""
    if report.problem:
        return of_problem(report.problem)
    by_end = {
        End.CRASHED: FailureClass.CRASHED,
        End.TIMED_OUT: FailureClass.TIMED_OUT,
        End.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
        End.CANCELLED: FailureClass.CRASHED,
    }
    return None if report.end is End.ANSWERED else of(by_end[report.end], report.detail)


def of_problem(problem: Problem) -> Failure:
    """Classify an exception that a child reported."""
    detail = f"{problem.what}: {problem.why}" if problem.why else problem.what
    failure = problem.failure or _classify(problem)
    return of(failure, detail, problem.hint)


def hint_of_rejection(reason: RejectionReason | None) -> str:
    """What to do about a rejected artifact."""
    return {
        "batch-baked-in": "take the batch size from the input (x.shape[0], -1 in reshape) instead of a number",
        "decision-disagreement": "calibrate on more representative data, or choose a higher precision",
        "metric-loss": "calibrate on more representative data, or choose a higher precision",
        "numerical-error": "look for branches, random numbers or state in the model that a trace freezes; another "
        "target may keep them",
        "non-finite": "the precision's range is too small for this model: choose bf16 or fp32",
    }.get(str(reason), "see the conversion's log; another target may work")


def _classify(problem: Problem) -> FailureClass:
    # Type and message first: a traceback also names innocent code (a function called `not_supported`).
    last_lines = "\n".join(problem.traceback.strip().splitlines()[-25:])
    for text in (f"{problem.kind}: {problem.what} {problem.why}", last_lines):
        for failure, pattern in _RULES:
            if pattern.search(text):
                return failure
        if problem.leaf in _LEAVES:
            return _LEAVES[problem.leaf]
    return FailureClass.CONVERTER_ERROR
