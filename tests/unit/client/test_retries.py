"""The retry budget and the waiting, as numbers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.client import Refused, RetryPolicy, Unreached
from modelyard.client.retries import RetryBudget, retry_delay
from modelyard.domain.errors import InvalidInput, Unavailable


@given(st.lists(st.booleans(), max_size=400), st.floats(0, 1), st.integers(0, 10))
def test_retries_never_exceed_a_share_of_the_successes_and_the_burst(
    outcomes: list[bool], ratio: float, burst: int
) -> None:
    budget = RetryBudget(RetryPolicy(ratio=ratio, burst=burst))
    successes = retries = 0
    for succeeded in outcomes:
        if succeeded:
            budget.earn()
            successes += 1
        else:
            retries += budget.take()
        assert retries <= ratio * successes + burst + 1e-6
        assert budget.tokens >= 0


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True), st.one_of(st.none(), st.floats(0, 60)))
def test_the_delay_is_after_what_the_service_said_with_full_jitter(
    attempt: int, chance: float, retry_after_s: float | None
) -> None:
    policy = RetryPolicy(base_delay_s=0.1, max_delay_s=3.0)
    delay = policy.delay(attempt, retry_after_s, chance)
    least = retry_after_s or 0.0
    assert least <= delay <= least + min(3.0, 0.1 * 2.0 ** (attempt - 1))


def test_the_delay_doubles_up_to_a_limit() -> None:
    policy = RetryPolicy(base_delay_s=0.1, max_delay_s=0.5)
    assert [policy.delay(n, None, 1.0) for n in (1, 2, 3, 4, 5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


@pytest.mark.parametrize(
    ("error", "resend", "again"),
    [
        (Refused("busy"), False, True),
        (Refused("busy", retry_after_s=0.5), True, True),
        (Refused("busy", retry_after_s=1.5), True, False),
        (Unreached("refused"), False, True),
        (Unreached("no such host", permanent=True), True, False),
        (Unreached("lost", sent=True), True, True),
        (Unreached("lost", sent=True), False, False),
        (Unavailable("late"), True, False),
    ],
)
def test_only_what_may_help_and_does_no_harm_is_tried_again(error: Unavailable, resend: bool, again: bool) -> None:
    policy = RetryPolicy()
    budget = RetryBudget(policy)
    delay = retry_delay(policy, budget, error, 1, left_s=1.0, chance=0.5, resend=resend)
    assert (delay is not None) == again
    assert budget.tokens == policy.burst - again


def test_attempts_are_bounded_and_an_empty_budget_says_no() -> None:
    policy = RetryPolicy(max_attempts=3, burst=2)
    budget = RetryBudget(policy)

    def ask(attempt: int) -> float | None:
        return retry_delay(policy, budget, Refused("busy"), attempt, left_s=9.0, chance=0.0, resend=True)

    assert [ask(1), ask(2), ask(3)] == [0.0, 0.0, None]
    assert ask(1) is None


def test_a_partial_outage_is_amplified_by_at_most_a_tenth() -> None:
    """T20 in numbers: half of all attempts fail, every client tries up to four times."""
    policy, chance = RetryPolicy(max_attempts=4), random.Random(0)
    budget, attempts = RetryBudget(policy), 0
    calls = 20_000
    for _ in range(calls):
        for attempt in range(1, 5):
            attempts += 1
            if chance.random() < 0.5:
                budget.earn()
                break
            if retry_delay(policy, budget, Refused("busy"), attempt, 9.0, 0.0, resend=True) is None:
                break
    assert attempts <= 1.1 * calls


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"ratio": 1.5}, {"burst": -1}, {"base_delay_s": -1}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        RetryPolicy(**wrong)  # type: ignore[arg-type]
