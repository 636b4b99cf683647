"""What one asks the hub for, and what it answers beside the domain's own values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeAlias, TypeVar

from modelyard.domain.artifacts import Artifact, Conversion
from modelyard.domain.configuration import Configuration
from modelyard.domain.decision import Decision
from modelyard.domain.errors import InvalidInput
from modelyard.domain.measurement import Measurement, Validity
from modelyard.domain.study import Study
from modelyard.domain.versions import Version
from modelyard.domain.workload import Workload

T = TypeVar("T")
Clock: TypeAlias = Callable[[], datetime]
MAX_PAGE = 1000

_METRIC = re.compile(r"\s*([A-Za-z][\w.@/ -]*?)\s*(>=|<=|==|=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")


def utc_now() -> datetime:
    """The default clock of the hub."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class MetricFilter:
    """A bound on a claimed metric: `accuracy >= 0.9`. `operator` is one of `>= <= > < ==`."""

    name: str
    operator: str
    value: float

    @classmethod
    def parse(cls, text: str) -> MetricFilter:
        """Parse `accuracy>=0.9`. Raises InvalidInput."""
        match = _METRIC.fullmatch(text)
        if not match:
            raise InvalidInput(f"'{text}' is not a metric filter", hint="write e.g. 'accuracy>=0.9'")
        return cls(match[1], "==" if match[2] == "=" else match[2], float(match[3]))


@dataclass(frozen=True, slots=True)
class VersionQuery:
    """Which versions to find; every given field must hold. Newest registrations come first.

    `name` is a glob where it has `*` or `?`, else a substring. `format` is that of any artifact of the version.
    All of `tags` must be there. Every word of `text` must begin a word of name, description, card or tags.
    `cursor` is the `next` of the previous page.
    """

    name: str = ""
    task: str = ""
    framework: str = ""
    format: str = ""
    tags: tuple[str, ...] = ()
    metrics: tuple[MetricFilter, ...] = ()
    text: str = ""
    limit: int = 50
    cursor: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_PAGE:
            raise InvalidInput(f"a page holds 1 to {MAX_PAGE} versions, not {self.limit}", hint="change the limit")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing. `next` is the cursor of the next page, None on the last one."""

    items: tuple[T, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """The outcome of `register`; `created` is False where the same content was registered before."""

    version: Version
    created: bool


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A model in a listing; task and framework are those of its latest version."""

    name: str
    versions: int
    latest: int
    task: str
    framework: str
    aliases: Mapping[str, int]
    created_at: str
    updated_at: str


@dataclass(frozen=True, slots=True)
class Freed:
    """What a delete or a gc removed, or with `dry_run` would remove.

    `size_bytes` counts blobs, temp files and cache.
    """

    versions: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    artifacts: int = 0
    conversions: int = 0
    measurements: int = 0
    studies: int = 0
    blobs: int = 0
    temp_files: int = 0
    cache_entries: int = 0
    size_bytes: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class DescriptionChanges:
    """New values of a version's mutable fields; None leaves a field as it is."""

    description: str | None = None
    license: str | None = None
    authors: tuple[str, ...] | None = None
    references: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    card: str | None = None


@dataclass(frozen=True, slots=True)
class Replacement:
    """Under `alias`, version `number` took the place of version `replaced`."""

    alias: str
    number: int
    replaced: int
    created_at: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version's artifacts come from, what was measured on them, and which version replaced which.

    `replacements` are the alias moves in which this version took a place or lost it.
    """

    version: Version
    artifacts: tuple[Artifact, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    decisions: tuple[Decision, ...] = ()
    studies: tuple[Study, ...] = ()
    services: tuple[str, ...] = ()
    replacements: tuple[Replacement, ...] = ()

    def children(self, artifact: str) -> tuple[Artifact, ...]:
        """The artifacts converted directly from the artifact with this id."""
        return tuple(a for a in self.artifacts if a.parent == artifact)


@dataclass(frozen=True, slots=True)
class MeasurementQuery:
    """Which measurements to find; every given field must hold. `fingerprint` is the id of a node's fingerprint."""

    model: str | None = None
    version: int | None = None
    artifact: str | None = None
    format: str | None = None
    runtime: str | None = None
    purpose: str | None = None
    fingerprint: str | None = None
    validity: Validity | None = None
    configuration: Configuration | None = None
    workload: Workload | None = None
    limit: int = field(default=MAX_PAGE)


@dataclass(frozen=True, slots=True)
class StudyQuery:
    """Which studies to find; every given field must hold.

    `like`: studies that were asked the same (version, aim, workload, space, strategy, options, budget, seed, node,
    default). `finished`: those with an answer, or those without.
    """

    model: str | None = None
    version: int | None = None
    strategy: str | None = None
    fingerprint: str | None = None
    like: Study | None = None
    finished: bool | None = None
    limit: int = MAX_PAGE
