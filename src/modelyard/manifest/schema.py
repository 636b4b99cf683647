"""The manifest's keys as pydantic models, used at this edge only, and their JSON Schema for editors."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from modelyard.domain.artifacts import Target
from modelyard.domain.configuration import Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Dim
from modelyard.domain.versions import check_name
from modelyard.manifest.frameworks import parse_framework
from modelyard.manifest.problems import nearest
from modelyard.manifest.sources import FORMATS
from modelyard.manifest.step_options import AFTER, BEFORE, DatatypeName, Reference, check_dim

API_VERSION: Final = "modelyard/v1"
REQUIRED: Final = ("apiVersion", "name", "source", "inputs", "outputs")


def _told(error: InvalidInput) -> ValueError:
    return ValueError(f"{error}; {error.hint}" if error.hint else str(error))


def _api_version(text: str) -> str:
    if text != API_VERSION:
        raise ValueError(f"unknown version '{text}'; this release reads {API_VERSION}")
    return text


def _name(text: str) -> str:
    try:
        return check_name(text, "model")
    except InvalidInput as error:
        raise _told(error) from error


def _framework(text: str) -> str:
    try:
        parse_framework(text)
    except InvalidInput as error:
        raise _told(error) from error
    return text


def check_license(text: str) -> str:
    """The SPDX license expression `text` in its canonical spelling; empty: none. Raises InvalidInput."""
    try:
        return str(canonicalize_license_expression(text)) if text else text
    except InvalidLicenseExpression as error:
        raise InvalidInput(
            f"'{text}' is not an SPDX license expression", hint="write e.g. Apache-2.0, or LicenseRef-Proprietary"
        ) from error


def _license(text: str) -> str:
    try:
        return check_license(text)
    except InvalidInput as error:
        raise _told(error) from error


def _sha256(text: str) -> str:
    digest = text.lower().removeprefix("sha256:")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise ValueError("expected 64 hexadecimal digits (the output of sha256sum)")
    return digest


def _target(text: str) -> str:
    try:
        target = Target.parse(text)
    except InvalidInput as error:
        raise _told(error) from error
    # Formats are open (plug-ins add some), so only a near miss of a known one is an error here.
    if target.format != "auto" and target.format not in FORMATS and "mean" in nearest(target.format, FORMATS):
        raise ValueError(f"unknown format '{target.format}'{nearest(target.format, FORMATS)}")
    return str(target)


def _convert(targets: list[str]) -> list[str]:
    if "auto" in targets and len(targets) > 1:
        raise ValueError("'auto' stands alone; write convert: auto, or list the targets")
    if len(set(targets)) != len(targets):
        raise ValueError("a target stands twice")
    return targets


def _listed(value: object) -> object:
    """Take a single text as a list of one (`convert: auto`, `authors: Ada`)."""
    return [value] if isinstance(value, str) else value


def _slo(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        slo = Slo.parse(value)
    except InvalidInput as error:
        raise _told(error) from error
    return {"p99_ms": slo.p99_ms, "rate_rps": slo.rate_rps}


def _step(value: object) -> object:
    """Take `softmax` as `{kind: softmax}`."""
    return {"kind": value} if isinstance(value, str) else value


def _steps(value: object) -> object:
    return [_step(item) for item in value] if isinstance(value, list) else value


def _metric(name: str) -> str:
    if not name.replace("_", "").replace("-", "").replace("@", "").replace(".", "").isalnum():
        raise ValueError(f"'{name}' is not a metric's name; write e.g. accuracy")
    return name


Texts: TypeAlias = Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])]
NonEmpty: TypeAlias = Annotated[str, Field(min_length=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SourceModel(_Model):
    """Where the trained model is: `path` beside the manifest, `factory` the function that builds a PyTorch module.

    `classes` names the classes of a boosted ensemble, whose files know only numbers. `trust` allows a file that runs
    code on load (a pickle); naming a factory allows that code already.
    """

    path: NonEmpty
    sha256: Annotated[str, AfterValidator(_sha256)] | None = None
    format: str | None = None
    factory: Reference | None = None
    classes: Annotated[list[str | int], Field(min_length=2)] | None = None
    trust: bool = False


class TensorModel(_Model):
    """One input or output: its name, datatype and shape; a name in the shape is a dimension that varies."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    datatype: DatatypeName
    shape: list[Annotated[Any, BeforeValidator(check_dim, json_schema_input_type=Dim)]]


class DatasetModel(_Model):
    """Held-out data as an `.npz`: which array feeds which input (model inputs, after preprocessing), and the label.

    `lengths` names, by symbolic dimension, the array of each row's own size where rows of different sizes are padded.
    """

    path: NonEmpty
    inputs: dict[str, str] = {}
    label: str | None = None
    lengths: dict[str, str] = {}


class SloModel(_Model):
    """The latency target; may be written as `p99 <= 20 ms at 200 rps`."""

    p99_ms: Annotated[float, Field(gt=0)]
    rate_rps: Annotated[float, Field(gt=0)] | None = None


class CardModel(_Model):
    """A model card kept in a file of its own."""

    path: NonEmpty


class Manifest(_Model):
    """A manifest of Modelyard: the YAML that describes a version."""

    # Required keys are checked apart (REQUIRED), so that what is there can be checked even where some are missing.
    api_version: Annotated[str, AfterValidator(_api_version)] = Field(API_VERSION, alias="apiVersion")
    name: Annotated[str, AfterValidator(_name)] = ""
    task: str = ""
    framework: Annotated[str, AfterValidator(_framework)] | None = None
    source: SourceModel | None = None
    inputs: Annotated[list[TensorModel], Field(min_length=1)] | None = None
    outputs: Annotated[list[TensorModel], Field(min_length=1)] | None = None
    preprocess: Annotated[list[Any], BeforeValidator(_steps)] | None = None
    postprocess: Annotated[list[Any], BeforeValidator(_steps)] | None = None
    dataset: DatasetModel | None = None
    metrics: dict[Annotated[str, AfterValidator(_metric)], float] | None = None
    slo: Annotated[SloModel, BeforeValidator(_slo, json_schema_input_type=str | SloModel)] | None = None
    convert: Annotated[
        list[Annotated[str, AfterValidator(_target)]],
        Field(min_length=1),
        AfterValidator(_convert),
        BeforeValidator(_listed, json_schema_input_type=str | list[str]),
    ] = ["auto"]
    files: Texts | None = None
    description: str = ""
    license: Annotated[str, AfterValidator(_license)] = ""
    authors: Texts | None = None
    references: Texts | None = None
    tags: Texts | None = None
    card: str | CardModel = ""


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a manifest, for editors that complete and check YAML."""
    result = Manifest.model_json_schema(by_alias=True)
    definitions = result.setdefault("$defs", {})
    for phase, kinds in (("preprocess", BEFORE), ("postprocess", AFTER)):
        for model in kinds.values():
            definitions[model.__name__] = model.model_json_schema(by_alias=True)
        steps = [{"$ref": f"#/$defs/{model.__name__}"} for model in kinds.values()]
        result["properties"][phase] = {"type": "array", "items": {"anyOf": [{"enum": sorted(kinds)}, *steps]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **result,
        "title": "Modelyard manifest",
        "required": list(REQUIRED),
    }
