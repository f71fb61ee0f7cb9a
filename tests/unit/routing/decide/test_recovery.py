from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import (
    BadRequest,
    Interrupted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RateLimited,
    Timeout,
)
from tokenlane.routing.contract.messages import Obstacle
from tokenlane.routing.decide.candidates import is_same_model
from tokenlane.routing.decide.policy import Policy, RolePolicy
from tokenlane.routing.decide.recovery import (
    AttemptFailed,
    Cause,
    Continue,
    End,
    Forget,
    History,
    LaneStopped,
    PayloadLost,
    Restart,
    TryAgain,
    WorkerDraining,
    WorkerLost,
    decide,
    decide_resumption,
    decide_without_budget,
    decide_without_handover,
    may_submit_again,
)

NEEDS = Needs(model="m1")
POLICY = Policy(max_starts=8, max_crashes=3)
DOWN = ProviderDown()
AT_ONCE = TryAgain(NEEDS)
ELSEWHERE = Needs(model="m1", avoid=("lane1",))


def history(**facts: Any) -> History:
    """One start so far, of model m1 on lane1, and a minute left, except for these facts."""
    return History(**{"needs": NEEDS, "lane": "lane1", "model": "m1", "starts": 1, "left_ms": 60_000, **facts})


def ended_with(code: type[LlmError]) -> object:
    """A decision that ends the request with that error."""
    return ("end", code.code)


def shape(decision: object) -> object:
    """A decision without its words and its random pause."""
    match decision:
        case End(error):
            return ("end", error.code)
        case TryAgain(needs, due_ms, counts, alone, longest_delay_ms) if due_ms > 0:
            return ("later", needs, counts, alone, longest_delay_ms is not None)
        case _:
            return decision


LATER = ("later", ELSEWHERE, True, False, True)
LATER_UNCOUNTED = ("later", ELSEWHERE, False, False, False)
CONTINUES = Needs(model="m1", continues="m1")
CONTINUES_ELSEWHERE = ELSEWHERE.model_copy(update={"continues": "m1"})
CONTINUES_LATER = ("later", CONTINUES_ELSEWHERE, True, False, False)
CUT = {"delivered": 3}


@pytest.mark.parametrize(
    ("cause", "facts", "expected"),
    [
        # An error ends the request if another attempt would meet it again, and after the last start.
        (AttemptFailed(LlmError()), {}, ended_with(LlmError)),
        (AttemptFailed(BadRequest()), {}, ended_with(BadRequest)),
        (AttemptFailed(ProviderDown(retryable=False)), {}, ended_with(ProviderDown)),
        (AttemptFailed(DOWN), {}, LATER),
        (AttemptFailed(Timeout()), {}, LATER),
        # A refusal with a 429 costs no start, since the lane pauses; a lane does not pause for a model command.
        (AttemptFailed(RateLimited(retry_after_s=2)), {}, LATER_UNCOUNTED),
        (AttemptFailed(RateLimited()), {"starts": 8}, LATER_UNCOUNTED),
        (AttemptFailed(RateLimited()), {"left_ms": 0}, TryAgain(ELSEWHERE, counts=False)),
        (AttemptFailed(RateLimited(), lane_pauses=False), {}, LATER),
        (AttemptFailed(RateLimited(), lane_pauses=False), {"starts": 8}, ended_with(RateLimited)),
        (AttemptFailed(RateLimited(), delivered=True), {**CUT, "starts": 8}, ended_with(RateLimited)),
        (AttemptFailed(ProviderDown(retry_after_s=2)), {"starts": 8}, ended_with(ProviderDown)),
        (AttemptFailed(DOWN), {"starts": 7}, LATER),
        (AttemptFailed(DOWN), {"starts": 8}, ended_with(ProviderDown)),
        (AttemptFailed(DOWN), {"left_ms": 0}, ended_with(ProviderDown)),
        # Another lane may have the model that this lane has lost.
        (AttemptFailed(ModelNotFound(), is_lacking=True), {}, LATER),
        (AttemptFailed(ModelNotFound(), is_lacking=True), {"needs": ELSEWHERE}, ended_with(ModelNotFound)),
        (AttemptFailed(ModelNotFound(), is_lacking=True), {"starts": 8}, ended_with(ModelNotFound)),
        (AttemptFailed(ModelNotFound(), is_lacking=True), CUT, CONTINUES_LATER),
        (AttemptFailed(ModelNotFound()), {}, ended_with(ModelNotFound)),
        # What did not reach its model server waits again at once, as often as may be, and that is none of its starts.
        (AttemptFailed(DOWN, reached=False), {"starts": 8, "left_ms": 0}, TryAgain(ELSEWHERE, counts=False)),
        (AttemptFailed(ProviderDown(retryable=False), reached=False), {}, ended_with(ProviderDown)),
        # Before the last crash that is allowed it runs alone.
        (WorkerLost(), {}, AT_ONCE),
        (WorkerLost(), {"starts": 100}, AT_ONCE),
        (WorkerLost(), {"crashes": 1}, TryAgain(NEEDS, alone=True)),
        (WorkerLost(), {"crashes": 2}, ended_with(Interrupted)),
        (WorkerLost(alone=True), {"crashes": 2}, ended_with(Interrupted)),
        # A worker that shuts down, and a lane that does not start what it was given, cost no try.
        (WorkerDraining(), {}, TryAgain(NEEDS, counts=False)),
        (WorkerDraining(), {"starts": 8, "crashes": 2}, TryAgain(NEEDS, counts=False)),
        (WorkerDraining(), {**CUT, "starts": 8}, TryAgain(CONTINUES, counts=False)),
        (LaneStopped(), {"starts": 8, "crashes": 2}, TryAgain(ELSEWHERE)),
        # The agent has a copy to submit again, and the part of the answer that it received.
        (PayloadLost(), {}, Forget()),
        (PayloadLost(), CUT, Forget()),
        # If part of the answer was delivered, the next attempt continues it.
        (AttemptFailed(DOWN), CUT, CONTINUES_LATER),
        (AttemptFailed(Interrupted(retryable=True)), CUT, CONTINUES_LATER),
        (AttemptFailed(DOWN, reached=False), CUT, TryAgain(CONTINUES_ELSEWHERE, counts=False)),
        (WorkerLost(), CUT, TryAgain(CONTINUES)),
        (WorkerDraining(), CUT, TryAgain(CONTINUES)),
        (WorkerDraining(), {**CUT, "restarts": True}, TryAgain(Needs(model="m1", continues="m1", restarts=True))),
        (LaneStopped(), CUT, TryAgain(CONTINUES_ELSEWHERE)),
        (AttemptFailed(BadRequest()), CUT, ended_with(BadRequest)),
        (AttemptFailed(BadRequest()), {**CUT, "restarts": True}, ended_with(BadRequest)),
        (AttemptFailed(DOWN), {**CUT, "starts": 8}, ended_with(ProviderDown)),
        (AttemptFailed(DOWN), {**CUT, "left_ms": 0}, ended_with(ProviderDown)),
        # If no lane can continue it, it begins anew where the agent allows that.
        (AttemptFailed(DOWN), {**CUT, "obstacle": "tool_call"}, ended_with(Interrupted)),
        (
            AttemptFailed(DOWN),
            {**CUT, "obstacle": "tool_call", "restarts": True},
            ("later", ELSEWHERE, True, False, False),
        ),
        (AttemptFailed(DOWN), {**CUT, "model": ""}, ended_with(Interrupted)),
        (WorkerLost(), {**CUT, "obstacle": "part"}, ended_with(Interrupted)),
        (WorkerDraining(), {**CUT, "obstacle": "schema"}, ended_with(Interrupted)),
        (WorkerDraining(), {**CUT, "obstacle": "reasoning", "restarts": True, "needs": CONTINUES}, AT_ONCE),
    ],
)
def test_each_cause_has_its_decision(
    cause: Cause, facts: dict[str, Any], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision depends on the cause, the earlier attempts and the deltas that were delivered. A pause drawn below
    1 ms would be none, so the longest is drawn."""
    monkeypatch.setattr("tokenlane.routing.decide.recovery.random.uniform", lambda _, longest: longest)
    assert shape(decide(cause, history(**facts), POLICY)) == expected


OBSTACLES = st.sampled_from(get_args(Obstacle))
MODELS = st.sampled_from(["", "m1", "m1:latest", "m2"])
HISTORIES = st.builds(
    History,
    needs=st.builds(Needs, continues=st.none() | MODELS.filter(bool), restarts=st.booleans()),
    lane=st.sampled_from(["lane1", "lane2"]),
    model=MODELS,
    starts=st.integers(0, 10),
    crashes=st.integers(0, 3),
    delivered=st.integers(0, 3),
    obstacle=OBSTACLES,
    restarts=st.booleans(),
    begun_anew=st.booleans(),
    left_ms=st.integers(0, 600_000) | st.just(math.inf),
)
PAUSES = st.none() | st.floats(0, 1000) | st.just(math.inf)
ERRORS = st.builds(
    lambda kind, **facts: kind(**facts),
    st.sampled_from([RateLimited, ProviderDown, Interrupted]),
    retry_after_s=PAUSES,
    retryable=st.booleans(),
)
CAUSES = (
    st.builds(AttemptFailed, ERRORS, *[st.booleans()] * 4)
    | st.builds(WorkerLost, st.booleans())
    | st.sampled_from([WorkerDraining(), LaneStopped(), PayloadLost()])
)


def is_refused(cause: Cause) -> bool:
    """Whether a model server refused the attempt for now, before it delivered anything, and the lane pauses."""
    if not isinstance(cause, AttemptFailed) or cause.delivered:
        return False
    return isinstance(cause.error, RateLimited) and cause.lane_pauses


def has_obstacle(facts: History) -> bool:
    """Whether the agent has part of the answer that no attempt can continue."""
    return facts.delivered > 0 and (facts.obstacle != "" or facts.model == "")


@given(CAUSES, HISTORIES)
def test_a_request_ends_only_if_something_stands_in_the_way(cause: Cause, facts: History) -> None:
    """It is tried again while a start and time are left, unless the request itself or the answer's form forbids it."""
    decision = decide(cause, facts, POLICY)
    lost = isinstance(cause, PayloadLost)
    refused = isinstance(cause, AttemptFailed) and not cause.error.retryable and not cause.is_lacking
    counted = isinstance(cause, AttemptFailed) and cause.reached
    used_up = counted and not is_refused(cause) and (facts.starts >= 8 or facts.left_ms == 0)
    killed = isinstance(cause, WorkerLost) and facts.crashes + 1 >= POLICY.max_crashes
    stuck = has_obstacle(facts) and not facts.restarts
    assert isinstance(decision, Forget) == lost
    assert isinstance(decision, End) == (not lost and (refused or used_up or killed or stuck))
    if isinstance(decision, End) and refused:
        assert isinstance(cause, AttemptFailed)
        assert decision.error is cause.error


@given(CAUSES, HISTORIES)
def test_the_next_attempt_continues_exactly_what_was_delivered(cause: Cause, facts: History) -> None:
    """It continues the model that wrote the latest part, avoids the lane only if that lane failed, and pauses for at
    most half of the time to the deadline."""
    decision = decide(cause, facts, POLICY)
    if not isinstance(decision, TryAgain):
        return
    needs = decision.needs
    if facts.delivered == 0:
        assert (needs.continues, needs.restarts) == (facts.needs.continues, facts.needs.restarts)
    elif has_obstacle(facts):
        assert (needs.continues, needs.restarts) == (None, False)
    else:
        assert (needs.continues, needs.restarts) == (facts.model, facts.restarts)
    assert needs.avoid == ((facts.lane,) if isinstance(cause, AttemptFailed | LaneStopped) else ())
    if isinstance(cause, WorkerDraining):
        assert decision.counts == (facts.starts == 1 and facts.delivered > 0)
    else:
        assert decision.counts == (not isinstance(cause, AttemptFailed) or (cause.reached and not is_refused(cause)))
    is_budgeted = not facts.has_part and isinstance(cause, AttemptFailed) and decision.counts
    assert (decision.longest_delay_ms is not None) == is_budgeted
    assert 0 <= decision.due_ms <= facts.left_ms / 2
    if isinstance(cause, AttemptFailed) and cause.reached:
        if cause.lane_pauses:
            assert decision.due_ms <= 30_000
        else:
            retry_after_ms = 1000 * (cause.error.retry_after_s or 0)
            assert decision.due_ms >= int(min(retry_after_ms, facts.left_ms / 2, 3_600_000))
    else:
        assert decision.due_ms == 0


@given(HISTORIES, st.sampled_from(["same-model", "any"]), MODELS.filter(bool), st.booleans())
def test_a_lane_continues_only_what_it_may(
    facts: History, continue_with: Literal["same-model", "any"], model: str, can_prefill: bool
) -> None:
    """It needs the ability, and the same model unless the policy allows any. A lane that cannot gives the request back
    at most once, and begins the answer anew only if the agent allows that."""
    facts = replace(facts, delivered=3)
    decision = decide_resumption(facts, RolePolicy(continue_with=continue_with), model, can_prefill=can_prefill)
    match decision:
        case Continue():
            assert can_prefill
            assert not has_obstacle(facts)
            assert continue_with == "any" or is_same_model(model, facts.model)
        case Restart():
            assert facts.restarts
        case TryAgain(needs, due_ms, counts):
            assert needs.continues == facts.model
            assert (due_ms, counts) == (0, False)
            again = decide_resumption(replace(facts, needs=needs), RolePolicy(), model, can_prefill=can_prefill)
            assert not isinstance(again, TryAgain)
        case End(error):
            assert isinstance(error, Interrupted)
            assert not facts.restarts
    if can_prefill and is_same_model(model, facts.model) and not has_obstacle(facts):
        assert isinstance(decision, Continue)


def test_a_request_waits_for_an_agent_that_does_not_reply() -> None:
    """It waits with the same needs for a moment, which ends before its deadline, and loses no start."""
    assert decide_without_handover(history(needs=CONTINUES, starts=8)) == TryAgain(
        CONTINUES, due_ms=2_000, counts=False
    )
    assert decide_without_handover(history(left_ms=1_000)) == TryAgain(NEEDS, due_ms=500, counts=False)


def test_a_retry_is_taken_from_the_budget_and_waits_for_it_only_so_long() -> None:
    """The budget may delay a retry for half a minute, or for half of the time that the request has left."""
    for left_ms, longest_ms in ((600_000, 30_000), (10_000, 5_000)):
        decision = decide(AttemptFailed(DOWN), history(left_ms=left_ms), POLICY)
        assert isinstance(decision, TryAgain)
        assert decision.longest_delay_ms == longest_ms
    for cause in (AttemptFailed(DOWN, reached=False), WorkerLost(), WorkerDraining(), LaneStopped()):
        decision = decide(cause, history(), POLICY)
        assert isinstance(decision, TryAgain)
        assert decision.longest_delay_ms is None


@pytest.mark.parametrize(
    ("delivered", "facts"), [(True, CUT), (False, CUT), (False, {"restarts": True, "begun_anew": True})]
)
def test_a_broken_answer_is_never_lost_to_the_budget(delivered: bool, facts: dict[str, Any]) -> None:
    """Its retries take nothing from the budget, even if the attempt that continued it or began it anew failed before
    its first delta."""
    decision = decide(AttemptFailed(DOWN, delivered=delivered), history(**facts), POLICY)
    assert isinstance(decision, TryAgain)
    assert decision.longest_delay_ms is None


def test_pauses_double_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause is drawn from zero to a limit, which doubles with each start up to half a minute."""
    drawn: list[tuple[float, float]] = []

    def longest(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr("tokenlane.routing.decide.recovery.random.uniform", longest)
    policy = Policy(max_starts=20)
    for starts in range(1, 11):
        decision = decide(AttemptFailed(DOWN), history(starts=starts, left_ms=600_000), policy)
        assert isinstance(decision, TryAgain)
        assert decision.due_ms == drawn[-1][1]
    assert drawn == [(0, min(200 * 2**starts, 30_000)) for starts in range(1, 11)]


def test_without_budget_a_request_ends_with_its_error() -> None:
    """The error keeps its class, place and detail."""
    error = ProviderDown("HTTP 500", provider="vllm", lane="lane1", model="m1", detail="why")
    ended = decide_without_budget(error).error
    assert (type(ended), ended.retryable, ended.detail, ended.lane) == (ProviderDown, True, "why", "lane1")
    assert ended.message.startswith("HTTP 500")


def test_the_message_of_a_third_party_gets_its_full_stop() -> None:
    """What follows is a sentence of its own."""
    cut = decide(AttemptFailed(ProviderDown("no answer")), history(**CUT, obstacle="schema"), POLICY)
    assert isinstance(cut, End)
    for message in (cut.error.message, decide_without_budget(ProviderDown("no answer")).error.message):
        assert "no answer. " in message
    for mark in (".", "!"):
        assert f"no answer{mark} " in decide_without_budget(ProviderDown(f"no answer{mark}")).error.message


def test_an_interruption_of_the_last_start_is_final() -> None:
    """An agent that has part of the answer gets an interruption that is not retryable, and names its place."""
    error = Interrupted("the stream ended", retryable=True, lane="lane1", detail="why")
    for facts in (CUT, {"restarts": True, "begun_anew": True}):
        decision = decide(AttemptFailed(error), history(**facts, starts=8), POLICY)
        assert isinstance(decision, End)
        assert decision.error.report() == Interrupted("the stream ended", lane="lane1", detail="why").report()


def test_an_answer_that_no_lane_can_continue_says_where_it_broke_off() -> None:
    """The error keeps the place and the detail of the failed attempt, and each obstacle has its own reason."""
    error = ProviderDown(provider="vllm", lane="lane1", model="m1", detail="why")
    messages = set()
    for obstacle in get_args(Obstacle)[1:]:
        decision = decide(AttemptFailed(error), history(**CUT, obstacle=obstacle), POLICY)
        assert isinstance(decision, End)
        report = decision.error.report()
        assert (report.code, report.retryable) == (Interrupted.code, False)
        assert (report.provider, report.lane, report.model, report.detail) == ("vllm", "lane1", "m1", "why")
        messages.add(report.message)
    assert len(messages) == len(get_args(Obstacle)) - 1
    drained = decide(WorkerDraining(), history(**CUT, obstacle="schema"), POLICY)
    assert isinstance(drained, End)
    assert (drained.error.lane, drained.error.model) == ("lane1", "m1")


def test_the_error_after_many_crashes_says_whether_other_requests_may_be_the_cause() -> None:
    """The message differs for a request that ran alone and for a request that ran beside others."""
    words = set()
    for alone in (True, False):
        decision = decide(WorkerLost(alone), history(crashes=2), POLICY)
        assert isinstance(decision, End)
        words.add(decision.error.message)
    assert len(words) == 2


def test_an_agent_submits_a_lost_request_again() -> None:
    """It does so if it has a copy of the request. If the request has ended, more of the answer must have arrived since
    the last time."""
    assert may_submit_again(has_copy=True, has_ended=False)
    assert may_submit_again(has_copy=True, has_ended=True, has_progressed=True)
    assert not may_submit_again(has_copy=True, has_ended=True)
    assert not may_submit_again(has_copy=False, has_ended=False)
    assert not may_submit_again(has_copy=False, has_ended=True, has_progressed=True)


def test_lanes_are_avoided_by_when_they_failed() -> None:
    """Each failed lane is listed once, the latest failure last. A long list loses its oldest lanes."""
    needs = NEEDS
    for lane in ("lane1", "lane2", "lane1", *(f"other{number}" for number in range(7))):
        decision = decide(AttemptFailed(DOWN), History(needs, lane), POLICY)
        assert isinstance(decision, TryAgain)
        needs = decision.needs
    assert needs == NEEDS.model_copy(update={"avoid": ("lane1", *(f"other{number}" for number in range(7)))})
