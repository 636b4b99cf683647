"""The version deployed is the default whatever else stands beside it; each replica has a Unix socket of its own."""

from __future__ import annotations

import pytest

from modelyard.dispatch.engines.supervisor import unix_socket
from modelyard.domain.errors import InvalidInput, NotFound
from modelyard.domain.services import ReplicaSpec, VersionPolicy
from modelyard.serving.models import policy as policies


def test_the_default_is_the_version_named_while_it_serves() -> None:
    policy = VersionPolicy(labels={"next": 4}, default=3)
    assert policies.default(policy, {3, 4}) == 3
    assert policies.default(policy, {4}) == 4
    assert policies.default(VersionPolicy(labels={"next": 4}), {3, 4}) == 4
    assert policies.shares(VersionPolicy(canary={5: 0.25}, default=3), {3, 4, 5}) == {5: 0.25, 3: 0.75}
    assert policies.wanted(VersionPolicy(latest=1, default=3), {3, 4, 5}) == {3, 5}


def test_a_default_that_is_not_there_or_has_another_role_is_refused() -> None:
    with pytest.raises(NotFound):
        policies.check("m", VersionPolicy(default=9), {3})
    for policy in (VersionPolicy(default=3, shadow=3), VersionPolicy(default=3, canary={3: 0.5})):
        with pytest.raises(InvalidInput, match="default"):
            policies.check("m", policy, {3})


def test_only_the_first_replica_listens_at_the_path_itself() -> None:
    spec = ReplicaSpec("s", (), unix_socket="/run/s")
    assert [unix_socket(spec, index) for index in range(3)] == ["/run/s", "/run/s.1", "/run/s.2"]
    assert unix_socket(ReplicaSpec("s", ()), 1) is None
