"""Models, versions, aliases, and what a manifest says of a version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelyard.domain.configuration import Slo
from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Signature

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?")
"""Model, alias and service names: lower case, digits, `.`, `_`, `-`; 1 to 128 characters."""


def check_name(name: str, what: str) -> str:
    """Return `name` if it is a valid name of a `what`, else raise InvalidInput."""
    if not NAME.fullmatch(name) or name.isdigit():
        raise InvalidInput(
            f"'{name}' is not a valid {what} name",
            hint="use 1 to 128 of a-z 0-9 . _ - , starting and ending with a letter or digit, not digits alone",
        )
    return name


@dataclass(frozen=True, slots=True)
class ModelRef:
    """How a user names a version: `digits` (latest), `digits:3`, `digits@production`."""

    model: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Parse a reference. Raises InvalidInput."""
        if ":" in text:
            name, _, number = text.partition(":")
            if not number.isdigit() or int(number) < 1:
                raise InvalidInput(f"'{text}' names no version", hint="write e.g. digits:3 or digits@production")
            return cls(check_name(name, "model"), version=int(number))
        name, at, alias = text.partition("@")
        return cls(check_name(name, "model"), alias=check_name(alias, "alias") if at else None)

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.model}:{self.version}"
        return f"{self.model}@{self.alias}" if self.alias else self.model


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """Held-out data of a version: an `.npz` file (a source file of the version, path relative to its directory).

    `inputs` maps input names to array names in the file; `label` names the array of true answers. `lengths` maps a
    symbolic dimension to the array of each row's size along it (`domain.ragged`); without it all rows have one size.
    """

    path: str
    inputs: Mapping[str, str]
    label: str | None = None
    lengths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One pre- or post-processing step: its kind and its options (as the manifest has them)."""

    kind: str
    options: Mapping[str, str | int | float | bool | list[str | int | float] | None]


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """How the source artifact is stored: its format, its entry file, loader options (`factory`), trust."""

    format: str
    entry: str
    options: Mapping[str, str] = field(default_factory=dict)
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """The fields of a version that may change after registration; everything else is immutable."""

    description: str = ""
    license: str = ""
    authors: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    card: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """The immutable part of a version, as the manifest gives it. Paths are relative to the version's source files."""

    name: str
    framework: str
    source: SourceSpec
    signature: Signature
    task: str = ""
    framework_constraint: str = ""
    preprocess: tuple[StepSpec, ...] = ()
    postprocess: tuple[StepSpec, ...] = ()
    dataset: DatasetSpec | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    slo: Slo | None = None
    convert: tuple[str, ...] = ("auto",)


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable numbered registration of a model. `digest` covers the definition and every source file."""

    model: str
    number: int
    digest: str
    definition: Definition
    description: Description
    source_artifact: str
    created_at: str
    aliases: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.model}:{self.number}"


@dataclass(frozen=True, slots=True)
class AliasEvent:
    """One entry of an alias' append-only history. `version` is None where the alias was removed."""

    model: str
    alias: str
    version: int | None
    previous: int | None
    action: str
    created_at: str
