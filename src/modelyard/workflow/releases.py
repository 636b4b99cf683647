"""Further versions of a service's model: which they are, whether they may stand beside it, who gets what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelyard.domain.errors import Conflict, InvalidInput
from modelyard.domain.services import VersionPolicy
from modelyard.domain.versions import ModelRef, Version
from modelyard.hub import Hub
from modelyard.serving.models import policy as policies
from modelyard.workflow.rows import Rows
from modelyard.workflow.values import DeployRequest


@dataclass(frozen=True)
class Releases:
    """Reads the further versions that a request names."""

    hub: Hub
    rows: Rows

    def resolve(self, main: Version, request: DeployRequest) -> tuple[VersionPolicy, tuple[Version, ...]]:
        """The policy of a request, and the versions beside `main`, oldest first.

        Raises NotFound, InvalidInput (another model, shares above 1, one version in two roles), and Conflict where a
        canary or shadow takes or gives other tensors than `main`.
        """
        beside: dict[int, Version] = {}

        def number(ref: str) -> int:
            version = self._version(main, ref)
            if version.number != main.number:
                beside[version.number] = version
            return version.number

        canary = _numbered(request.canary, number)
        shadow = number(request.shadow) if request.shadow else None
        labels = {label: number(ref) for label, ref in request.labels.items()}
        for tried in (*canary, *(() if shadow is None else (shadow,))):
            if tried == main.number:
                raise InvalidInput(
                    f"{main.ref} is the version that is deployed, and cannot be its own canary or shadow",
                    hint="name another version of the model",
                )
        if not beside and not labels:
            return VersionPolicy(), ()
        policy = VersionPolicy(labels=labels, canary=canary, shadow=shadow, default=main.number)
        policies.check(main.model, policy, {main.number, *beside})
        self._check_interchangeable(main, policy, beside)
        return policy, tuple(beside[n] for n in sorted(beside))

    def _version(self, main: Version, ref: str) -> Version:
        version = self.hub.versions.get(ModelRef.parse(ref))
        if version.model != main.model:
            raise InvalidInput(
                f"{ref} is no version of {main.model}",
                why="canary, shadow and labels are versions of the one model that is deployed",
                hint=f"yard models show {main.model} lists them",
            )
        return version

    def _check_interchangeable(self, main: Version, policy: VersionPolicy, beside: Mapping[int, Version]) -> None:
        tried = {n: v for n, v in beside.items() if n in policy.canary or n == policy.shadow}
        signatures = {n: self.rows.outer_signature(v) for n, v in {main.number: main, **tried}.items()}
        try:
            policies.check_interchangeable(main.model, policy, signatures)
        except Conflict as error:
            ours = [str(s) for s in (*signatures[main.number].inputs, *signatures[main.number].outputs)]
            raise Conflict(
                error.what,
                why=f"{error.why}; {main.ref} has {', '.join(ours)}",
                hint="canary and shadow need the same signature; give the version a --label instead",
            ) from error


def _numbered(shares: Mapping[str, float], number: Callable[[str], int]) -> dict[int, float]:
    found: dict[int, float] = {}
    for ref, share in shares.items():
        version = number(ref)
        if version in found:
            raise InvalidInput(f"version {version} is a canary twice", hint="give it one share")
        found[version] = share
    return found
