"""Artifacts: files in one format, content-addressed; conversions that make them; the proof that they are equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Signature

PYTORCH_EAGER: Final = "pytorch-eager"
"""A state dict (safetensors) beside the Python file of a factory `module:function` that builds the module."""
PYTORCH_EXPORTED: Final = "pytorch-exported"
TORCHSCRIPT: Final = "torchscript"
ONNX: Final = "onnx"
OPENVINO: Final = "openvino"
SKLEARN: Final = "sklearn"
"""A scikit-learn estimator stored by skops."""
XGBOOST: Final = "xgboost"
LIGHTGBM: Final = "lightgbm"


class Precision(StrEnum):
    """Arithmetic of the heavy operators. Always set, never inherited from a runtime's default."""

    FP64 = "fp64"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Target:
    """What a conversion aims at: a format and a variant of it. Written `onnx` or `onnx:int8-dynamic`."""

    format: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """Parse `format` or `format:variant`. Raises InvalidInput."""
        head, _, tail = text.strip().partition(":")
        if not head or (":" in text and not tail):
            raise InvalidInput(f"'{text}' is not a conversion target", hint="write e.g. onnx or onnx:int8-dynamic")
        return cls(head, tail)

    @property
    def precision(self) -> Precision:
        """The precision this variant computes in; plain and `optimized` variants keep FP32."""
        head = self.variant.split("-", 1)[0]
        return Precision(head) if head in set(Precision) else Precision.FP32

    def __str__(self) -> str:
        return f"{self.format}:{self.variant}" if self.variant else self.format


@dataclass(frozen=True, slots=True)
class LocalArtifact:
    """An artifact's files in a local directory, with all a runtime needs to load them.

    `entry` is the main file relative to `directory`. `options` are format-specific (`factory` for
    `pytorch-eager`). `trusted`: the user allowed formats that run code on load (pickle, joblib, a factory).
    """

    directory: str
    entry: str
    target: Target
    precision: Precision
    signature: Signature
    options: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of an artifact: path relative to its directory, SHA-256 in hex, size."""

    path: str
    digest: str
    size_bytes: int


class Standing(StrEnum):
    """Whether an artifact may be served: the source and what was proven equal to it may."""

    SOURCE = "source"
    UNPROVEN = "unproven"
    PROVEN = "proven"
    REJECTED = "rejected"

    @property
    def servable(self) -> bool:
        return self in (Standing.SOURCE, Standing.PROVEN)


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact as the hub knows it. `id` is unique in the hub; `parent` is the artifact it was converted from."""

    id: str
    model: str
    version: int
    target: Target
    precision: Precision
    entry: str
    files: tuple[ArtifactFile, ...]
    signature: Signature
    standing: Standing
    options: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = False
    parent: str | None = None
    conversion: str | None = None
    created_at: str = ""

    @property
    def size_bytes(self) -> int:
        return sum(f.size_bytes for f in self.files)


class FailureClass(StrEnum):
    """Why a conversion or a load failed; documented in docs/concepts.md, each with a hint."""

    UNSUPPORTED_OPERATOR = "unsupported-operator"
    DATA_DEPENDENT_CONTROL_FLOW = "data-dependent-control-flow"
    DYNAMIC_SHAPE_LOST = "dynamic-shape-lost"
    MISSING_DEPENDENCY = "missing-dependency"
    NO_ROUTE = "no-route"
    INVALID_MODEL = "invalid-model"
    UNTRUSTED = "untrusted"
    NO_CALIBRATION_DATA = "no-calibration-data"
    OUT_OF_MEMORY = "out-of-memory"
    TIMED_OUT = "timed-out"
    CRASHED = "crashed"
    UNSUPPORTED_DEVICE = "unsupported-device"
    CONVERTER_ERROR = "converter-error"


class Outcome(StrEnum):
    """How a conversion (with its proof) ended."""

    PROVEN = "proven"
    REJECTED = "rejected"
    FAILED = "failed"


class RejectionReason(StrEnum):
    """Why an artifact is not equal to its source."""

    NUMERICAL_ERROR = "numerical-error"
    DECISION_DISAGREEMENT = "decision-disagreement"
    METRIC_LOSS = "metric-loss"
    OUTPUT_MISMATCH = "output-mismatch"
    NON_FINITE = "non-finite"
    BATCH_BAKED_IN = "batch-baked-in"
    RUN_FAILED = "run-failed"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What still counts as equal, by precision; defaults in `convert`, stated in docs/concepts.md.

    Elementwise error is compared as |a - s| <= max_abs + max_rel * |s|; at most `mismatch_fraction` of the
    elements may miss it. `min_cosine` is per output. `min_decision_agreement` is the share of rows with the same
    arg-max (classifiers). `max_metric_loss` is absolute, on the task metric.
    """

    max_abs: float
    max_rel: float
    mismatch_fraction: float
    min_cosine: float
    min_decision_agreement: float
    max_metric_loss: float


@dataclass(frozen=True, slots=True)
class OutputAgreement:
    """Agreement of one output over all cases. `decision_agreement` is None where there is no arg-max to take."""

    output: str
    elements: int
    max_abs_error: float
    max_rel_error: float
    cosine: float
    mismatch_fraction: float
    decision_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class MetricAgreement:
    """The task metric of source and artifact on the dataset."""

    metric: str
    source: float
    artifact: float
    rows: int


@dataclass(frozen=True, slots=True)
class Equivalence:
    """The measured agreement of an artifact with its source, and the verdict."""

    outcome: Outcome
    reason: RejectionReason | None
    detail: str
    cases: tuple[str, ...]
    outputs: tuple[OutputAgreement, ...]
    metrics: tuple[MetricAgreement, ...]
    tolerance: Tolerance
    runtime: str


@dataclass(frozen=True, slots=True)
class Conversion:
    """One run of one route to a target: what was tried, with which tools, how it ended.

    `key` identifies (source digest, target, route, options, tool versions): the same key need not run again.
    `isolation` names the layers of the sandbox that held while it ran.
    """

    id: str
    key: str
    model: str
    version: int
    source_artifact: str
    target: Target
    route: str
    outcome: Outcome
    detail: str
    duration_s: float
    peak_memory_bytes: int
    tool_versions: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)
    failure: FailureClass | None = None
    hint: str = ""
    log: str = ""
    artifact: str | None = None
    equivalence: Equivalence | None = None
    isolation: tuple[str, ...] = ()
    created_at: str = ""
