"""A change of one model's versions: prepared beside what serves, then taken over as a whole or dropped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from modelyard.domain.errors import BackendFailed, ModelyardError
from modelyard.domain.services import ServedModel, VersionPolicy
from modelyard.serving.faults import text_of, without_paths
from modelyard.serving.models import policy as policies
from modelyard.serving.models.loading import Loaded
from modelyard.serving.models.states import Stage, Version

_log = logging.getLogger(__name__)
_NOTHING: Final = VersionPolicy()


@dataclass(frozen=True, slots=True)
class Wish:
    """What a model should be: its policy, and what to load for each version (`source`: without overrides)."""

    policy: VersionPolicy
    versions: Mapping[int, ServedModel]
    source: Mapping[int, ServedModel]
    invalid: Mapping[int, ModelyardError] = field(default_factory=dict)
    """Versions that are wanted and cannot even be tried."""
    exactly: bool = False
    """Whether a version is loaded again when all that differs is what a caller had overridden when it was loaded."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A version loaded and warm, with what identifies the files it was loaded from."""

    loaded: Loaded
    fingerprint: tuple[object, ...]


class Change:
    """One model's change. Event-loop thread only; the model's lock is held from `prepare` to the end."""

    def __init__(
        self,
        name: str,
        versions: dict[int, Version],
        wish: Wish,
        load: Callable[[ServedModel], Awaitable[Ready]],
        fingerprint: Callable[[ServedModel], Awaitable[tuple[object, ...]]],
    ) -> None:
        self.name = name
        self.wish = wish
        self.ready: dict[int, Ready] = {}
        self.failed: dict[int, ModelyardError] = dict(wish.invalid)
        self._versions = versions
        self._load = load
        self._fingerprint = fingerprint

    async def prepare(self) -> None:
        """Load and warm up what is wanted and does not serve yet, in parallel. Failures are values (`failed`)."""
        needed = [number for number in sorted(self.wish.versions) if await self._needs(number)]
        for number in needed:
            self._started(number)
        await asyncio.gather(*(self._prepare(number) for number in needed))
        for number, error in self.failed.items():
            _log.error("%s:%d is not loaded: %s", self.name, number, text_of(error))
            self._versions.setdefault(number, Version(self.name, number)).failed(error)

    async def _needs(self, number: int) -> bool:
        version = self._versions.get(number)
        if version is None or version.executor is None:
            return True
        wanted = self.wish.versions[number]
        if version.source != self.wish.source[number] or (self.wish.exactly and version.served != wanted):
            return True
        return version.fingerprint != await self._fingerprint(wanted)

    def _started(self, number: int) -> None:
        version = self._versions.setdefault(number, Version(self.name, number))
        if version.executor is None:
            version.stage, version.reason, version.error = Stage.START, "", None

    async def _prepare(self, number: int) -> None:
        try:
            self.ready[number] = await self._load(self.wish.versions[number])
        except ModelyardError as error:
            self.failed[number] = error
        except Exception as error:  # noqa: BLE001 - a framework may throw anything; only this version is hurt
            _log.exception("loading %s:%d failed", self.name, number)
            self.failed[number] = BackendFailed(
                f"loading model '{self.name}' version {number} failed", why=f"{type(error).__name__}: {error}"
            )

    def check(self) -> None:
        """Whether the versions that would share requests are interchangeable. Raises Conflict."""
        after = {n: v.executor.interface.signature for n, v in self._versions.items() if v.executor is not None}
        if not self.failed:
            after = {n: s for n, s in after.items() if n in self.wish.versions}
        after |= {n: ready.loaded.interface.signature for n, ready in self.ready.items()}
        policies.check_interchangeable(self.name, self.wish.policy, after)

    def failure(self) -> ModelyardError:
        """The error of a change in which a version failed, for clients in Triton's words; of the first version's kind.

        Its cause is that version's own error.
        """
        number, error = next(iter(sorted(self.failed.items())))
        told = f"failed to load '{self.name}', version {number} is at UNAVAILABLE state"
        changed = type(error)(told, why=without_paths(str(error)), hint=without_paths(error.hint))
        changed.__cause__ = error
        return changed


def with_labels(policy: VersionPolicy, labels: Mapping[str, int]) -> VersionPolicy:
    """The policy with other labels."""
    return replace(policy, labels=dict(labels))
