from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import (
    BadRequest,
    Interrupted,
    LlmError,
    ProviderDown,
    RateLimited,
    RequestLost,
    Timeout,
)
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.recovery import (
    AttemptFailed,
    Cause,
    End,
    History,
    LaneStopped,
    PoolForgot,
    TryAgain,
    WorkerDraining,
    WorkerLost,
    answer_lost,
    as_interruption,
    decide,
    may_submit_again,
)

NEEDS = Needs(model="m1")
POLICY = Policy(max_starts=8, max_crashes=3)
DOWN = ProviderDown()
AT_ONCE = TryAgain(NEEDS)
ELSEWHERE = Needs(model="m1", avoid=("lane1",))


def history(**facts: float) -> History:
    """One start so far, on lane1, and a minute left, but for these facts."""
    return History(NEEDS, "lane1", **({"starts": 1, "left_ms": 60_000} | facts))  # type: ignore[arg-type]  # ints in a mapping of floats


def ended_with(code: type[LlmError]) -> object:
    """A decision that ends the request with that error."""
    return ("end", code.code)


def shape(decision: object) -> object:
    """A decision without its words and its random pause."""
    match decision:
        case End(error):
            return ("end", error.code)
        case TryAgain(needs, due_ms, counts, alone) if due_ms > 0:
            return ("later", needs, counts, alone)
        case _:
            return decision


LATER = ("later", ELSEWHERE, True, False)


@pytest.mark.parametrize(
    ("cause", "facts", "expected"),
    [
        # An error ends what another try would meet again, what the agent has seen a part of, and the last start.
        (AttemptFailed(LlmError()), {}, ended_with(LlmError)),
        (AttemptFailed(BadRequest()), {}, ended_with(BadRequest)),
        (AttemptFailed(ProviderDown(retryable=False)), {}, ended_with(ProviderDown)),
        (AttemptFailed(DOWN), {}, LATER),
        (AttemptFailed(Timeout()), {}, LATER),
        (AttemptFailed(RateLimited(retry_after_s=2)), {}, LATER),
        (AttemptFailed(RateLimited(retry_after_s=2)), {"left_ms": 1_999}, ended_with(RateLimited)),
        (AttemptFailed(DOWN), {"delivered": 1}, ended_with(ProviderDown)),
        (AttemptFailed(DOWN), {"starts": 7}, LATER),
        (AttemptFailed(DOWN), {"starts": 8}, ended_with(ProviderDown)),
        (AttemptFailed(DOWN), {"left_ms": 0}, ended_with(ProviderDown)),
        # What did not reach its model server waits again at once, as often as may be, and that is none of its starts.
        (AttemptFailed(DOWN, reached=False), {"starts": 8, "left_ms": 0}, TryAgain(ELSEWHERE, counts=False)),
        (AttemptFailed(ProviderDown(retryable=False), reached=False), {}, ended_with(ProviderDown)),
        # Before the last crash that is allowed it runs alone.
        (WorkerLost(), {}, AT_ONCE),
        (WorkerLost(), {"starts": 100}, AT_ONCE),
        (WorkerLost(), {"crashes": 1}, TryAgain(NEEDS, alone=True)),
        (WorkerLost(), {"crashes": 2}, ended_with(Interrupted)),
        (WorkerLost(alone=True), {"crashes": 2}, ended_with(Interrupted)),
        (WorkerLost(), {"delivered": 3}, ended_with(Interrupted)),
        # A worker that shuts down, and a lane that does not start what it was given, cost no try.
        (WorkerDraining(), {"starts": 8, "crashes": 2}, AT_ONCE),
        (WorkerDraining(), {"delivered": 1}, ended_with(Interrupted)),
        (LaneStopped(), {"starts": 8, "crashes": 2}, TryAgain(ELSEWHERE)),
        # A worker has no copy to submit again.
        (PoolForgot(), {}, ended_with(RequestLost)),
        (PoolForgot(), {"delivered": 1}, ended_with(RequestLost)),
    ],
)
def test_each_cause_has_its_decision(cause: Cause, facts: dict[str, float], expected: object) -> None:
    """The decision depends on the cause, the earlier attempts and the deltas that were delivered."""
    assert shape(decide(cause, history(**facts), POLICY)) == expected


@given(
    st.integers(0, 100),
    st.integers(0, 3),
    st.integers(0, 600_000),
    st.booleans(),
    st.none() | st.floats(0, 1000) | st.just(math.inf),
    st.booleans(),
)
def test_every_failure_is_decided(
    starts: int, delivered: int, left_ms: int, reached: bool, retry_after_s: float | None, retryable: bool
) -> None:
    """A request is tried again only after a retryable error, before any delta, within its starts and its deadline."""
    error = RateLimited(retry_after_s=retry_after_s, retryable=retryable)
    facts = history(starts=starts, delivered=delivered, left_ms=left_ms)
    match decide(AttemptFailed(error, reached), facts, POLICY):
        case End(failed):
            assert failed is error
        case TryAgain(_, due_ms, counts):
            assert retryable
            assert delivered == 0
            assert counts == reached
            assert starts < POLICY.max_starts or not counts
            if counts:
                assert int(1000 * (retry_after_s or 0)) <= due_ms < max(1, left_ms)
        case decision:
            pytest.fail(f"not today's: {decision}")


def test_an_interruption_after_a_delivered_delta_is_final() -> None:
    """An interruption is retryable while no delta was delivered. After that it is final, and keeps its place."""
    error = Interrupted("the stream ended", retryable=True, lane="lane1", detail="why")
    assert shape(decide(AttemptFailed(error), history(), POLICY)) == LATER
    decision = decide(AttemptFailed(error), history(delivered=1), POLICY)
    assert isinstance(decision, End)
    assert decision.error.report() == Interrupted("the stream ended", lane="lane1", detail="why").report()


def test_the_error_after_many_crashes_says_whether_other_requests_may_be_the_cause() -> None:
    """The message differs for a request that ran alone and for a request that ran beside others."""
    words = set()
    for alone in (True, False):
        decision = decide(WorkerLost(alone), history(crashes=2), POLICY)
        assert isinstance(decision, End)
        words.add(decision.error.message)
    assert len(words) == 2


@pytest.mark.parametrize("error", [Timeout(), ProviderDown(retryable=False), RequestLost(), LlmError()])
def test_an_agent_with_part_of_the_answer_gets_an_interruption(error: LlmError) -> None:
    """An error that the request did not cause becomes an interruption with that error as its cause."""
    error.at(lane="lane1")
    seen = as_interruption(error)
    assert isinstance(seen, Interrupted)
    assert seen.__cause__ is error
    assert seen.lane == "lane1"


@pytest.mark.parametrize("error", [BadRequest(), answer_lost("end")])
def test_an_error_that_the_request_caused_stays_itself(error: LlmError) -> None:
    """So does an error that is an interruption already."""
    assert as_interruption(error) is error


def test_an_agent_submits_a_lost_request_again() -> None:
    """It does so if it has a copy of the request, and no part of the answer."""
    assert may_submit_again(has_copy=True, delivered=0)
    assert not may_submit_again(has_copy=True, delivered=1)
    assert not may_submit_again(has_copy=False, delivered=0)


def test_lanes_are_avoided_by_when_they_failed() -> None:
    """Each failed lane is listed once, the latest failure last. A long list loses its oldest lanes."""
    needs = NEEDS
    for lane in ("lane1", "lane2", "lane1", *(f"other{number}" for number in range(7))):
        decision = decide(AttemptFailed(DOWN), History(needs, lane), POLICY)
        assert isinstance(decision, TryAgain)
        needs = decision.needs
    assert needs == NEEDS.model_copy(update={"avoid": ("lane1", *(f"other{number}" for number in range(7)))})
