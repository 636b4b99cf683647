"""Which of a model's versions a policy wants, and whether a policy makes sense: pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

from modelyard.domain.errors import Conflict, InvalidInput, NotFound
from modelyard.domain.services import VersionPolicy
from modelyard.domain.tensors import Signature

LATEST: Final = VersionPolicy(latest=1)
"""The policy of a model of a repository that has none of its own (as in Triton and TF Serving)."""
ALL: Final = VersionPolicy()
"""The policy of the models that a spec lists: all that it lists."""


def named(policy: VersionPolicy) -> set[int]:
    """The versions that labels, canary, shadow or default name: they are wanted whatever else the policy says."""
    found = {*policy.labels.values(), *policy.canary}
    return found | {v for v in (policy.shadow, policy.default) if v is not None}


def wanted(policy: VersionPolicy, available: Iterable[int], extra: Collection[int] = ()) -> set[int]:
    """The versions to serve, of those `available`; `extra` were asked for one by one."""
    present = sorted(available)
    if policy.versions:
        chosen = set(policy.versions)
    elif policy.latest is not None:
        shadowless = [v for v in present if v != policy.shadow and v not in policy.canary]
        chosen = set((shadowless or present)[-policy.latest :])
    else:
        chosen = set(present)
    return (chosen | named(policy) | set(extra)) & set(present)


def check(name: str, policy: VersionPolicy, available: Collection[int]) -> None:
    """Whether a policy can be followed. Raises InvalidInput (nonsense), NotFound (a version that there is none of)."""
    if policy.latest is not None and policy.latest < 1:
        raise InvalidInput(f"the version policy of model '{name}' asks for the latest {policy.latest}", hint="use >= 1")
    if policy.latest is not None and policy.versions:
        raise InvalidInput(f"the version policy of model '{name}' has both 'latest' and 'versions'", hint="give one")
    shares = policy.canary.values()
    if any(not 0.0 < share <= 1.0 for share in shares) or sum(shares) > 1.0 + 1e-9:
        raise InvalidInput(
            f"the canary shares of model '{name}' are {dict(policy.canary)}",
            hint="each is above 0, and together they are at most 1",
        )
    if policy.shadow is not None and policy.shadow in policy.canary:
        raise InvalidInput(f"version {policy.shadow} of model '{name}' is both canary and shadow", hint="choose one")
    if policy.default is not None and (policy.default == policy.shadow or policy.default in policy.canary):
        raise InvalidInput(
            f"version {policy.default} of model '{name}' is the default and also canary or shadow",
            hint="choose other versions to try",
        )
    for version in sorted({*policy.versions, *named(policy)}):
        if version not in available:
            raise NotFound(
                f"Request for unknown model: '{name}' version {version} is not found",
                why="the version policy names it",
            )
    if any(not label for label in policy.labels):
        raise InvalidInput(f"a label of model '{name}' is empty")


def default(policy: VersionPolicy, serving: Collection[int]) -> int | None:
    """The version that gets the requests which name none, canaries apart: the policy's, else the latest that is neither
    canary nor shadow; where there is no such version, the latest canary, then the shadow itself. None where nothing
    serves."""
    if policy.default is not None and policy.default in serving:
        return policy.default
    plain = [v for v in serving if v != policy.shadow and v not in policy.canary]
    return max(plain or [v for v in serving if v != policy.shadow] or serving, default=None)


def shares(policy: VersionPolicy, serving: Collection[int]) -> dict[int, float]:
    """The share of the requests that name no version, by version: canaries have theirs, the default the rest."""
    stable = default(policy, serving)
    if stable is None:
        return {}
    given = {v: share for v, share in policy.canary.items() if v in serving}
    rest = 1.0 - sum(given.values())
    if stable in given:  # nothing but canaries: in proportion
        return given
    return {**given, stable: rest} if rest > 1e-9 else given


def check_interchangeable(name: str, policy: VersionPolicy, signatures: Mapping[int, Signature]) -> None:
    """Whether versions that answer for each other take and give the same tensors. Raises Conflict."""
    together = set(shares(policy, signatures))
    if policy.shadow is not None and policy.shadow in signatures:
        together.add(policy.shadow)
    stable = default(policy, signatures)
    if stable is None or len(together) < 2:
        return
    for version in sorted(together - {stable}):
        if _shown(signatures[version]) != _shown(signatures[stable]):
            raise Conflict(
                f"version {version} of model '{name}' cannot share requests with version {stable}",
                why="their inputs or outputs differ in name, datatype or shape",
                hint="canary and shadow need the same signature; give the version a label instead",
            )


def _shown(signature: Signature) -> object:
    """The signature as clients see it: symbolic dimensions have no names."""
    return [
        [(s.name, s.datatype, [None if isinstance(d, str) else d for d in s.shape]) for s in specs]
        for specs in (signature.inputs, signature.outputs)
    ]
