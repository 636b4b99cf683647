"""Options of every pre- and postprocessing step, as the manifest has them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Datatype, Dim, TensorSpec
from modelyard.manifest.problems import nearest
from modelyard.manifest.python_files import split_reference

_SPEC = re.compile(r"\s*([^\s:\[\]]+)\s*:\s*([A-Z0-9]+)\s*\[([^\[\]]*)\]\s*")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALIASES = {
    "float": "FP32", "float32": "FP32", "f32": "FP32", "float64": "FP64", "double": "FP64", "float16": "FP16",
    "half": "FP16", "int": "INT64", "long": "INT64", "string": "BYTES", "str": "BYTES", "object": "BYTES",
}  # fmt: skip


def check_datatype(text: str) -> str:
    """Return `text` if it is a datatype, else raise ValueError naming the one that was meant."""
    if text in set(Datatype):
        return text
    meant = _ALIASES.get(text.lower())
    raise ValueError(
        f"unknown datatype '{text}'" + (f"; did you mean '{meant}'?" if meant else nearest(text, list(Datatype)))
    )


def check_dim(dim: object) -> Dim:
    """Return a dimension (whole number >= 1 or symbol) or raise ValueError."""
    if isinstance(dim, int) and not isinstance(dim, bool) and dim >= 1:
        return dim
    if isinstance(dim, str) and _SYMBOL.fullmatch(dim):
        return dim
    raise ValueError(
        f"expected a whole number >= 1 or a name such as 'batch' for a dimension that varies, got "
        f"{'nothing' if dim is None else repr(dim)}"
    )


def parse_spec(text: str) -> TensorSpec:
    """Parse `image: UINT8[batch, 28, 28]` (a tensor spec as it prints). Raises ValueError."""
    match = _SPEC.fullmatch(text)
    if not match:
        raise ValueError(f"'{text}' is not a tensor; write e.g. 'image: UINT8[batch, 28, 28]'")
    parts = [part.strip() for part in match[3].split(",")] if match[3].strip() else []
    dims = tuple(check_dim(int(part) if part.lstrip("-").isdigit() else part) for part in parts)
    return TensorSpec(match[1], Datatype(check_datatype(match[2])), dims)


def _reference(text: str) -> str:
    try:
        split_reference(text)
    except InvalidInput as error:
        raise ValueError(f"{error}; {error.hint}") from error
    return text


def _spec_texts(texts: list[str]) -> list[str]:
    for text in texts:
        parse_spec(text)
    return texts


def _no_zero(values: list[float]) -> list[float]:
    if 0 in values:
        raise ValueError("a standard deviation cannot be 0")
    return values


DatatypeName: TypeAlias = Annotated[str, AfterValidator(check_datatype)]
Reference: TypeAlias = Annotated[str, AfterValidator(_reference)]
SpecTexts: TypeAlias = Annotated[list[str], Field(min_length=1), AfterValidator(_spec_texts)]
Positive: TypeAlias = Annotated[int, Field(ge=1, le=65_536)]
Size: TypeAlias = Annotated[list[Positive], Field(min_length=2, max_length=2)]
Resample: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class StepOptions(BaseModel):
    """What every step has: `tensor` names the tensor it works on (needed only where there are several)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)

    tensor: str | None = None


class DecodeImage(StepOptions):
    """Encoded images (JPEG, PNG, WebP, BMP, GIF) BYTES[batch] -> UINT8[batch, height, width, channels].

    `size` is [height, width]; `fit: crop` scales the shorter side and cuts the centre, `stretch` ignores the aspect.
    """

    kind: Literal["decode_image"]
    mode: Literal["RGB", "L"] = "RGB"
    size: Size | None = None
    fit: Literal["crop", "stretch"] = "stretch"
    resample: Resample = "bilinear"
    max_pixels: Annotated[int, Field(ge=1, le=170_000_000)] = 40_000_000


class Resize(StepOptions):
    """Scale images [batch, height, width, channels] of UINT8 or FP32 to `size` = [height, width]."""

    kind: Literal["resize"]
    size: Size
    resample: Resample = "bilinear"


class Normalize(StepOptions):
    """Images [batch, height, width, channels] -> FP32 (x * scale - mean) / std, laid out `chw` or `hwc`."""

    kind: Literal["normalize"]
    scale: Annotated[float, Field(gt=0)] = 1 / 255
    mean: list[float] = [0.0]
    std: Annotated[list[float], AfterValidator(_no_zero)] = [1.0]
    layout: Literal["chw", "hwc"] = "chw"
    from_: DatatypeName = Field(default="UINT8", alias="from")


class Cast(StepOptions):
    """Numbers of one datatype to another; refuses values that the new one cannot hold."""

    kind: Literal["cast"]
    from_: DatatypeName = Field(alias="from")
    to: DatatypeName


class Scale(StepOptions):
    """FP32 or FP64 numbers -> x * factor + offset."""

    kind: Literal["scale"]
    factor: float = 1.0
    offset: float = 0.0


class Reshape(StepOptions):
    """Rows of shape `from` to rows of shape `to`; both without the batch dimension."""

    kind: Literal["reshape"]
    from_: list[Positive] = Field(alias="from")
    to: list[Positive]


class PythonBefore(StepOptions):
    """A function `dict of arrays -> dict of arrays` of the version's own code. `inputs`: what clients then send."""

    kind: Literal["python"]
    function: Reference
    inputs: SpecTexts | None = None


class PythonAfter(StepOptions):
    """A function `dict of arrays -> dict of arrays` of the version's own code. `outputs`: what clients then get."""

    kind: Literal["python"]
    function: Reference
    outputs: SpecTexts | None = None


class Softmax(StepOptions):
    """Scores along the last axis to probabilities."""

    kind: Literal["softmax"]


class Argmax(StepOptions):
    """Scores [batch, classes] to INT64[batch]; `name` renames the output, `keep` keeps the scores beside it."""

    kind: Literal["argmax"]
    name: str | None = None
    keep: bool = False


class TopK(StepOptions):
    """Scores [batch, classes] to `classes` INT64, `scores` and, with labels, `labels` BYTES, each [batch, k].

    `labels` is a list, or `labels_file` a text file with one label per line. `keep` keeps the scores' tensor too.
    """

    kind: Literal["top_k"]
    k: Positive = 5
    labels: list[str] | None = None
    labels_file: str | None = None
    keep: bool = False


BEFORE: dict[str, type[StepOptions]] = {
    "decode_image": DecodeImage,
    "resize": Resize,
    "normalize": Normalize,
    "cast": Cast,
    "scale": Scale,
    "reshape": Reshape,
    "python": PythonBefore,
}
AFTER: dict[str, type[StepOptions]] = {
    "softmax": Softmax,
    "argmax": Argmax,
    "top_k": TopK,
    "scale": Scale,
    "cast": Cast,
    "python": PythonAfter,
}
