from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.errors import BadRequest, LlmError, ProviderDown, RateLimited, Timeout
from tokenlane.routing.decide.recovery import Budget, Fail, Requeue, decide

budgets = st.builds(
    Budget,
    starts=st.integers(0, 100),
    max_starts=st.integers(1, 10),
    delivered=st.integers(0, 3),
    left_ms=st.integers(0, 600_000),
    reached=st.booleans(),
)
pauses = st.none() | st.floats(0, 1000) | st.just(math.inf)


@given(budgets, pauses, st.booleans())
def test_every_failure_is_decided(budget: Budget, retry_after_s: float | None, retryable: bool) -> None:
    """Again only what is retryable, undelivered, within its starts and able to start before its deadline."""
    error = RateLimited("slow down", retry_after_s=retry_after_s, retryable=retryable)
    match decide(error, budget):
        case Fail(failed):
            assert failed is error
        case Requeue(due_ms, counts):
            assert retryable
            assert budget.delivered == 0
            assert counts == budget.reached
            assert budget.starts < budget.max_starts or not counts
            if counts:
                assert int(1000 * (retry_after_s or 0)) <= due_ms < max(1, budget.left_ms)


@pytest.mark.parametrize("error", [LlmError(), BadRequest(), ProviderDown(retryable=False)])
def test_what_is_not_retryable_fails(error: LlmError) -> None:
    """An error that another try would meet again ends the request."""
    assert decide(error, Budget(1, 8, 0, 60_000)) == Fail(error)


@pytest.mark.parametrize("error", [ProviderDown(), Timeout(), RateLimited()])
def test_what_the_agent_has_seen_is_not_repeated(error: LlmError) -> None:
    """After the first delivered delta there is no second attempt; before it there is."""
    assert isinstance(decide(error, Budget(1, 8, 0, 60_000)), Requeue)
    assert decide(error, Budget(1, 8, 1, 60_000)) == Fail(error)


def test_the_starts_are_counted() -> None:
    """The last allowed start is the last."""
    assert isinstance(decide(ProviderDown(), Budget(7, 8, 0, 60_000)), Requeue)
    assert isinstance(decide(ProviderDown(), Budget(8, 8, 0, 60_000)), Fail)


def test_what_did_not_reach_its_back_end_waits_on() -> None:
    """It waits again at once, as often as may be, and that is none of its starts."""
    assert decide(ProviderDown(), Budget(8, 8, 0, 60_000, reached=False)) == Requeue(0, counts=False)
    assert isinstance(decide(ProviderDown(retryable=False), Budget(1, 8, 0, 60_000, reached=False)), Fail)
