"""Which versions a policy wants, and who gets which requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.domain.errors import Conflict, InvalidInput, NotFound
from modelyard.domain.services import VersionPolicy
from modelyard.domain.tensors import Signature
from modelyard.serving.models import policy as policies
from tests.serving_harness import VECTOR, tensor


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (VersionPolicy(), {1, 2, 3, 5}),
        (VersionPolicy(latest=1), {5}),
        (VersionPolicy(latest=2), {3, 5}),
        (VersionPolicy(latest=9), {1, 2, 3, 5}),
        (VersionPolicy(versions=(1, 3)), {1, 3}),
        (VersionPolicy(latest=1, labels={"old": 1}), {1, 5}),
        (VersionPolicy(latest=1, canary={5: 0.1}), {3, 5}),
        (VersionPolicy(latest=1, shadow=5), {3, 5}),
        (VersionPolicy(latest=1, shadow=5, canary={3: 0.5}), {2, 3, 5}),
        (VersionPolicy(latest=1, versions=(), labels={"gone": 4}), {5}),
    ],
)
def test_the_wanted_versions_are_the_policys_and_all_that_it_names(policy, wanted):
    assert policies.wanted(policy, [3, 1, 5, 2]) == wanted


def test_versions_asked_for_one_by_one_are_wanted_too():
    assert policies.wanted(VersionPolicy(latest=1), [1, 2, 3], {1, 9}) == {1, 3}


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (VersionPolicy(latest=0), InvalidInput),
        (VersionPolicy(latest=1, versions=(1,)), InvalidInput),
        (VersionPolicy(canary={1: 0.6, 2: 0.6}), InvalidInput),
        (VersionPolicy(canary={1: 0.0}), InvalidInput),
        (VersionPolicy(canary={1: float("nan")}), InvalidInput),
        (VersionPolicy(canary={1: 0.5}, shadow=1), InvalidInput),
        (VersionPolicy(labels={"": 1}), InvalidInput),
        (VersionPolicy(versions=(7,)), NotFound),
        (VersionPolicy(labels={"x": 7}), NotFound),
        (VersionPolicy(shadow=7), NotFound),
        (VersionPolicy(canary={7: 0.5}), NotFound),
    ],
)
def test_nonsense_is_refused(policy, kind):
    with pytest.raises(kind):
        policies.check("m", policy, {1, 2})


def test_the_default_is_the_latest_that_is_neither_canary_nor_shadow():
    assert policies.default(VersionPolicy(), {1, 2}) == 2
    assert policies.default(VersionPolicy(canary={2: 0.1}), {1, 2}) == 1
    assert policies.default(VersionPolicy(shadow=2), {1, 2}) == 1
    assert policies.default(VersionPolicy(canary={2: 1.0}), {2}) == 2
    assert policies.default(VersionPolicy(shadow=2), {2}) == 2
    assert policies.default(VersionPolicy(), set()) is None


def test_shares():
    assert policies.shares(VersionPolicy(canary={3: 0.25}), {1, 2, 3}) == {3: 0.25, 2: 0.75}
    assert policies.shares(VersionPolicy(canary={3: 1.0}), {2, 3}) == {3: 1.0}
    assert policies.shares(VersionPolicy(canary={9: 0.5}), {2, 3}) == {3: 1.0}
    assert policies.shares(VersionPolicy(canary={2: 0.2, 3: 0.2}), {2, 3}) == {2: 0.2, 3: 0.2}
    assert policies.shares(VersionPolicy(), set()) == {}


_VERSIONS = st.sets(st.integers(1, 9), max_size=6)


@given(_VERSIONS, st.dictionaries(st.integers(1, 9), st.floats(0.01, 0.3), max_size=3), st.none() | st.integers(1, 9))
def test_shares_go_to_versions_that_serve_and_never_exceed_the_whole(serving, canary, shadow):
    canary.pop(shadow, None)
    shares = policies.shares(VersionPolicy(canary=canary, shadow=shadow), serving)
    assert set(shares) <= serving
    assert bool(shares) == bool(serving)
    assert sum(shares.values()) <= 1.0 + 1e-9
    assert all(share > 0 for share in shares.values())
    assert shadow not in shares or serving == {shadow}


def test_versions_that_answer_for_each_other_have_the_same_tensors():
    renamed = Signature((tensor("x", "FP32", "n", 4),), (tensor("y", "FP32", "n", 4),))
    other = Signature((tensor("x", "FP32", "batch", 4),), (tensor("y", "FP64", "batch", 4),))
    canary = VersionPolicy(canary={2: 0.5})
    policies.check_interchangeable("m", canary, {1: VECTOR, 2: renamed})
    policies.check_interchangeable("m", VersionPolicy(), {1: VECTOR, 2: other})
    policies.check_interchangeable("m", canary, {1: VECTOR, 3: VECTOR})
    for policy in (canary, VersionPolicy(shadow=2)):
        with pytest.raises(Conflict, match="version 2 of model 'm' cannot share requests with version 1"):
            policies.check_interchangeable("m", policy, {1: VECTOR, 2: other})
