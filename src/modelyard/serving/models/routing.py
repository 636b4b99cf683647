"""Which version of one model a request reaches: its targets, canary shares and shadow. Event-loop thread only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor as Pool
from typing import cast

from modelyard.domain.errors import InvalidInput, ModelyardError, NotFound, Unavailable
from modelyard.domain.services import VersionPolicy
from modelyard.serving.models import policy as policies
from modelyard.serving.models.canary import Shares
from modelyard.serving.models.shadow import Mirror, Shadow
from modelyard.serving.models.states import Stage, Version
from modelyard.serving.models.target import Target
from modelyard.serving.oip.plan import unknown_model
from modelyard.serving.scheduling.executor import Executor


class Routing:
    """The targets of one model. `versions` are the repository's own records, looked at and never changed."""

    def __init__(self, name: str, versions: Mapping[int, Version], idle: Callable[[], bool], pool: Pool) -> None:
        self.name = name
        self.policy = VersionPolicy()
        self.shadow: Shadow | None = None
        self.shares: dict[int, float] = {}
        """Of the requests that name neither version nor label, by version."""
        self._versions = versions
        self._idle = idle
        self._pool = pool
        self._targets: dict[tuple[int, str], Target] = {}

    @property
    def serving(self) -> dict[int, Executor]:
        """The executors that take requests, by version."""
        return {n: v.executor for n, v in sorted(self._versions.items()) if v.executor is not None}

    def target(self, version: str = "", label: str = "") -> Target:
        """The target of the model, a version or a label. Raises NotFound, Unavailable, InvalidInput."""
        number = parse_version(version)
        target = self._targets.get((number, label))
        if target is None:
            self._executor(number, label)  # raises where there is nothing to lead to: such names are not kept
            target = self._targets[(number, label)] = Target(lambda: self._executor(number, label))
            self._lead(target, number, label)
        return target

    def find(self, version: str = "") -> Executor:
        """The executor of a version, or of the default one. Raises NotFound, Unavailable, InvalidInput."""
        return self._executor(parse_version(version), "")

    def refresh(self, policy: VersionPolicy) -> None:
        """Lead every target to where it belongs now: call when versions or the policy have changed."""
        self.policy = policy
        serving = self.serving
        self.shares = policies.shares(policy, serving)
        shadowing = None if policy.shadow is None else serving.get(policy.shadow)
        if shadowing is None:
            self.shadow = None
        elif self.shadow is None or self.shadow.executor is not shadowing:
            self.shadow = self._make_shadow(shadowing, policy.shadow or 0)
        for (number, label), target in self._targets.items():
            self._lead(target, number, label)

    def _make_shadow(self, executor: Executor, number: int) -> Shadow:
        served = self._versions[number].served
        if served is None:
            raise unknown_model(self.name, str(number))
        rows = served.batching.max_size if executor.interface.batched else 1
        return Shadow(executor, rows, served.queue.priorities, self._idle, self._pool)

    def _lead(self, target: Target, number: int, label: str) -> None:
        if number or label:
            try:
                target.lead(self._executor(number, label), lambda: self._executor(number, label))
            except ModelyardError:  # the next request of that name is told the reason
                target.lead(None, lambda: self._executor(number, label))
            return
        serving = self.serving
        choices = [(self._primary(serving[v]), share) for v, share in self.shares.items()]
        if len(choices) == 1:
            target.lead(choices[0][0], lambda: self._executor(0, ""))
        elif choices:
            target.lead(None, Shares(choices).pick)
        else:
            target.lead(None, lambda: self._executor(0, ""))

    def _primary(self, executor: Executor) -> Executor:
        if self.shadow is None or self.shadow.executor is executor:
            return executor
        # fronts use an executor's `interface` and `submit`, which a mirror has, and it passes on the rest
        return cast("Executor", Mirror(executor, self.shadow))

    def _executor(self, number: int, label: str) -> Executor:
        if label:
            labelled = self.policy.labels.get(label)
            if labelled is None:
                raise NotFound(f"Request for unknown model: '{self.name}' has no label '{label}'")
            number = labelled
        if number:
            version = self._versions.get(number)
            if version is not None and version.executor is not None:
                return version.executor
            raise self._absent(str(number), [version] if version is not None else [])
        default = policies.default(self.policy, self.serving)
        if default is None:
            raise self._absent("", list(self._versions.values()))
        return self.serving[default]

    def _absent(self, number: str, versions: list[Version]) -> ModelyardError:
        """Triton's answer to a model without a ready version: later, or never."""
        which = f"'{self.name}' version {number}" if number else f"'{self.name}'"
        text = f"Request for unknown model: {which} is not at ready state"
        if any(v.stage in (Stage.START, Stage.LOADING) for v in versions):
            return Unavailable(text, why="it is being loaded")
        failed = [v for v in versions if v.error is not None]
        if failed:
            return Unavailable(text, why=failed[-1].reason)
        return unknown_model(self.name, number)


def parse_version(version: str) -> int:
    """A version as clients write it; 0 for none. Raises InvalidInput."""
    if not version:
        return 0
    if not (version.isascii() and version.isdigit()) or not 0 < int(version[:19]) < 10**18:
        raise InvalidInput(
            f"failed to get model version from specified version string '{version[:100]}'",
            why="version should be an integer value > 0",
        )
    return int(version[:19])
