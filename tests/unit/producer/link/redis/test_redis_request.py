"""How a request stands: its states as its module draws them, and what holds whatever happens to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from typing import get_args

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.lanes import lane_view

from tokenlane.producer.link.redis import request_state
from tokenlane.producer.link.redis.pool_view import PoolView
from tokenlane.producer.link.redis.redis_request import RedisRequest
from tokenlane.producer.link.redis.request_state import RequestState, Step
from tokenlane.producer.link.redis.timings import Timings
from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.errors import (
    DeadlineExceeded,
    Interrupted,
    LlmError,
    PoolUnavailable,
    ProviderDown,
    QueueFull,
    RequestLost,
    Timeout,
)
from tokenlane.routing.contract.messages import Attached, Cancelled, ChannelMessage, Completed, Deltas, Failed, Resume
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.decide.wait_cause import WaitingRequest
from tokenlane.routing.store.beats import CheckReply
from tokenlane.routing.store.request_life import RequestStatus, State

CLIENT, WORKER, ATTEMPT, ID = "client", "worker", 7, "0" * 32
TIMINGS = Timings()
LONG_S = 60.0


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(clock: Clock, *, copy: bool = True, position: int = 0) -> RedisRequest:
    """A request that is not sent yet."""
    envelope = Envelope(id=ID, client=CLIENT, agent="a", role="r")
    sent = (envelope, b"") if copy else None
    return RedisRequest(ID, CLIENT, TIMINGS, clock, copy=sent, deadline=clock() + 600, position=position)


def accepted(request: RedisRequest) -> RedisRequest:
    with request.sending():
        return request


def stands(
    request: RedisRequest,
    state: State,
    clock: Clock,
    *,
    worker: str = "",
    owner: str = CLIENT,
    attempt: int = ATTEMPT,
) -> list[Step]:
    """The pool says, just now, how the request stands."""
    clock.now += 0.001
    status = RequestStatus(state, attempt, worker, 5 if state == "completed" else None, "", owner)
    return request.follow_status(status, clock(), PoolView(TIMINGS))


def said(*texts: str, attempt: int = ATTEMPT, first: int = 0) -> Deltas:
    deltas = [TokenDelta(text=text) for text in texts]
    return Deltas(attempt=attempt, worker=WORKER, lane="l", model="m", first=first, deltas=deltas)


def completed(end: int, *, attempt: int = ATTEMPT) -> Completed:
    return Completed(attempt=attempt, worker=WORKER, lane="l", model="m", first=end, end=end, usage=Usage())


def in_state(state: RequestState, clock: Clock, *, part: bool) -> RedisRequest:
    """A request in this state, of whose answer a part has come, or nothing."""
    request = accepted(made(clock))
    begins = said("a") if part else Resume(attempt=ATTEMPT, worker=WORKER)
    match state:
        case RequestState.QUEUED if part:
            request.receive(begins)
            stands(request, "waiting", clock)
        case RequestState.QUEUED:
            pass
        case RequestState.RUNNING:
            request.receive(begins)
        case RequestState.MISSING:
            request.receive(begins)
            stands(request, "missing", clock)
        case RequestState.ENDING:
            request.receive(begins)
            stands(request, "failed", clock, worker=WORKER)
        case RequestState.ENDED:
            request.leave()
    assert request.state is state
    return request


EVENTS: dict[str, Callable[[RedisRequest, Clock], object]] = {
    "a message": lambda request, clock: request.receive(said("a", "b")),
    "the last message": lambda request, clock: request.receive(Cancelled(attempt=ATTEMPT)),
    "a gap in the messages": lambda request, clock: request.report_gap(),
    "queued in the pool": lambda request, clock: stands(request, "waiting", clock),
    "running in the pool": lambda request, clock: stands(request, "running", clock),
    "ended in the pool": lambda request, clock: stands(request, "cancelled", clock),
    "unknown to the pool": lambda request, clock: stands(request, "missing", clock),
    "submitted again": lambda request, clock: request.report_resubmission(None),
    "given up or left": lambda request, clock: request.give_up(Timeout()),
}


def table() -> list[tuple[str, RequestState, str]]:
    """The cells of the table in the module's docstring: what happens, the state before, that after."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (request_state.__doc__ or "").splitlines()
        if re.match(r"\| \w", line)
    ]
    (_, *before), *events = rows
    assert set(before) == set(RequestState)
    assert {event for event, *_ in events} == set(EVENTS)
    return [
        (event, RequestState(state), after)
        for event, *cells in events
        for state, after in zip(before, cells, strict=True)
    ]


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize(("event", "before", "after"), table())
async def test_the_states_are_as_drawn(event: str, before: RequestState, after: str, part: bool) -> None:
    """Each cell of the table: what happens to a request in one state puts it in another."""
    clock = Clock()
    request = in_state(before, clock, part=part)
    EVENTS[event](request, clock)
    assert request.state == after


async def test_a_deserted_pool_is_named() -> None:
    """Whoever asks a pool without workers, as of a mistyped database, reads which pool it was."""
    clock, pool = Clock(), "pool 'other' at redis://gpu-hub/3"
    request, view = accepted(made(clock)), PoolView(TIMINGS, server=pool)
    nobody = CheckReply(routers=0, known_lanes=0, revision=0, lease_ms=3_000, patience_ms=0)
    view.update(nobody, clock())
    clock.now += LONG_S
    request.follow_status(RequestStatus("waiting", ATTEMPT, "", None, "", CLIENT), clock(), view)
    assert isinstance(request.error, ProviderDown)
    assert pool in request.error.message


@pytest.mark.parametrize("begun", [False, True])
async def test_what_it_waits_for_has_its_place_and_an_estimate(*, begun: bool) -> None:
    """Before the first token, and after an answer broke off."""
    clock, view, place = Clock(), PoolView(TIMINGS), QueuePlace(3, 12, 13_000)
    request = accepted(made(clock))
    if begun:
        request.receive(said("a"))
    clock.now += 0.001
    full = lane_view("gpu0", limit=1, queued=1)
    view.update(CheckReply(1, 1, 0, lease_ms=3_000, patience_ms=0, lanes=(full,)), clock())
    waiting = WaitingRequest("waiting", Queue("r", "chat", "normal", Needs()), place=place)
    status = RequestStatus("waiting", ATTEMPT, "", None, "", CLIENT, waiting=waiting)
    request.follow_status(status, clock(), view)
    assert request.waiting is not None
    assert "'gpu0' (1 of 1)" in request.waiting
    assert str(place) in request.waiting
    assert "about 40 s" in request.waiting


@pytest.mark.parametrize("state", get_args(State))
async def test_how_it_stands_is_not_heard_while_it_is_sent(state: State) -> None:
    """Until the pool has answered to the sending, what it says of the request may be what was before that."""
    clock = Clock()
    request = made(clock)
    with request.sending():
        assert stands(request, state, clock) == []
        assert request.state is RequestState.QUEUED
        assert not request.is_silent(0)


@pytest.mark.parametrize(
    ("sending", "message", "told"),
    [
        ("not begun", None, False),
        ("under way", None, True),
        ("under way", Cancelled(attempt=ATTEMPT), True),
        ("accepted", None, True),
        ("accepted", Cancelled(attempt=ATTEMPT), False),
        ("accepted", Attached(attempt=ATTEMPT, client="another"), False),
        (PoolUnavailable(), None, True),
        (QueueFull(), None, False),
    ],
)
async def test_the_pool_is_told_that_nobody_wants_it_where_it_may_have_it(
    sending: str | LlmError, message: ChannelMessage | None, told: bool
) -> None:
    """What was never sent, was refused or has ended is not cancelled; nor is what another client owns by now."""
    request = made(Clock())
    with ExitStack() as under_way:
        if sending != "not begun":
            under_way.enter_context(request.sending())
        if isinstance(sending, LlmError):
            with pytest.raises(type(sending)), under_way.pop_all():
                raise sending
        if sending == "accepted":
            under_way.close()
        if message is not None:
            request.receive(message)
        request.leave()
        assert request.must_be_cancelled is told


@pytest.mark.parametrize(("worker", "after_s"), [("", TIMINGS.last_message_s), (WORKER, TIMINGS.ended_patience_s)])
async def test_an_end_that_nobody_repeats_is_believed_after_a_while(worker: str, after_s: float) -> None:
    """The last message may be on its way, and says more; so may the worker, which is asked for it."""
    clock = Clock()
    request = accepted(made(clock))
    ended = []
    for wait_s in (0, after_s / 2, after_s):
        clock.now += wait_s
        stands(request, "failed", clock, worker=worker)
        if (due := request.due_replay()) is not None:
            due[0].mark_sent(clock())
        ended.append(request.ended)
    assert ended == [False, False, True]
    assert request.replays.are_wanted == (worker != "")
    assert type(request.error) is LlmError


async def test_a_worker_has_all_its_time_again_after_an_outage() -> None:
    """The worker may not have heard that it was asked: the server, or one of the two connections to it, was away."""
    clock, ended = Clock(), []
    request = in_state(RequestState.RUNNING, clock, part=True)
    for event in ("asked", "reconnected", "asked", "asked"):
        clock.now += 0.6 * TIMINGS.ended_patience_s
        if event == "reconnected":
            request.report_reconnection()
        stands(request, "failed", clock, worker=WORKER)
        if (due := request.due_replay()) is not None:
            due[0].mark_sent(clock())
        ended.append(request.ended)
    assert ended == [False, False, False, True]


def lose_end(request: RedisRequest, clock: Clock, how: str, *, attempt: int = ATTEMPT) -> list[Step]:
    """The answer is complete in this attempt, but nobody sends its end, or all of it. What the reader then does."""
    steps = list[Step]()
    if how == "nobody answers":
        for _ in range(2):
            steps += stands(request, "completed", clock, worker=WORKER, attempt=attempt)
            pass_patience(request, clock)
    elif how == "a part is missing":
        for _ in range(2):
            request.receive(completed(5, attempt=attempt))
            pass_patience(request, clock)
    else:
        request.receive(completed(5, attempt=attempt))
        for _ in range(2):
            steps += stands(request, "missing", clock)
            clock.now += LONG_S
    return steps + stands(request, "missing" if how == "the pool has lost it" else "completed", clock, attempt=attempt)


def pass_patience(request: RedisRequest, clock: Clock) -> None:
    """The worker is asked for what is missing, and has had its time to send it."""
    if (due := request.due_replay()) is not None:
        due[0].mark_sent(clock())
    clock.now += TIMINGS.ended_patience_s


LOST = ("nobody answers", "a part is missing", "the pool has lost it")


@pytest.mark.parametrize("part", [True, False])
@pytest.mark.parametrize("how", LOST)
async def test_an_answer_of_which_the_end_is_lost_is_continued(how: str, *, part: bool) -> None:
    """The agent submits the request again, under a newer attempt than that which completed it, and reads the rest."""
    clock = Clock()
    request = in_state(RequestState.RUNNING, clock, part=part)
    assert "resubmit" in lose_end(request, clock, how)
    assert request.state is RequestState.MISSING
    assert not request.replays.are_wanted
    _, _, floor = request.submission()
    assert floor > ATTEMPT
    accepted(request).report_resubmission(None)
    assert request.must_be_cancelled
    request.receive(completed(5))  # the worker of the first attempt still has no more
    assert not request.replays.are_wanted
    request.receive(completed(1, attempt=floor + 1) if part else said("a", attempt=floor + 1))
    assert request.ended is part
    assert request.text == "a"


@pytest.mark.parametrize("how", LOST)
async def test_the_rest_of_an_answer_is_asked_for_again_only_with_more_of_it(how: str) -> None:
    """Otherwise an agent that can never read the end of its answer would have it made again and again."""
    clock = Clock()
    request = in_state(RequestState.RUNNING, clock, part=True)
    for attempt in (ATTEMPT, ATTEMPT + 10):
        assert "resubmit" in lose_end(request, clock, how, attempt=attempt)
        accepted(request).report_resubmission(None)
        if attempt == ATTEMPT:
            request.receive(said("b", attempt=ATTEMPT + 10, first=1))
    assert "resubmit" not in lose_end(request, clock, how, attempt=ATTEMPT + 20)
    assert isinstance(request.error, Interrupted)
    assert request.error.partial == "ab"


@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize("why", ["no copy", "another owner"])
async def test_the_rest_of_an_answer_is_for_its_owner(why: str, how: str) -> None:
    """A reader that attached has no copy of the request; if another client owns the request, that client decides."""
    clock = Clock()
    request = accepted(made(clock, copy=why != "no copy"))
    request.receive(said("a"))
    if why == "another owner":
        request.receive(Attached(attempt=ATTEMPT, client="another"))
    assert "resubmit" not in lose_end(request, clock, how)
    assert isinstance(request.error, Interrupted)
    assert request.error.partial == "a"


@pytest.mark.parametrize("error", [QueueFull(), PoolUnavailable()])
async def test_the_rest_is_asked_for_until_the_pool_accepts_it(error: LlmError) -> None:
    """Until then the pool says that the request is complete."""
    clock = Clock()
    request = in_state(RequestState.RUNNING, clock, part=True)
    lose_end(request, clock, "nobody answers")
    for _ in range(2):
        request.report_resubmission(error)
        assert stands(request, "completed", clock, worker=WORKER) == ["resubmit"]
    request.report_resubmission(error)
    assert stands(request, "waiting", clock) == []
    assert request.state is RequestState.QUEUED


async def test_a_server_that_forgot_the_second_submission_gets_it_again() -> None:
    """A replica that has become the primary may know only the attempt that completed the request."""
    clock = Clock()
    request = in_state(RequestState.RUNNING, clock, part=True)
    lose_end(request, clock, "nobody answers")
    accepted(request).report_resubmission(None)
    request.receive(said("b", attempt=ATTEMPT + 10, first=1))
    assert stands(request, "completed", clock, worker=WORKER) == ["resubmit"]
    assert request.submission()[2] >= ATTEMPT + 10
    request.receive(Attached(attempt=ATTEMPT + 10, client="another"))
    assert stands(request, "completed", clock, worker=WORKER, owner="another") == []


async def test_a_failure_of_which_a_part_is_lost_is_final() -> None:
    """The pool has decided that the request ends, so it is not submitted again."""
    clock = Clock()
    request = in_state(RequestState.RUNNING, clock, part=True)
    request.receive(Failed(attempt=ATTEMPT, worker=WORKER, first=3, end=3, error=Timeout().report()))
    for _ in range(2):
        clock.now += LONG_S
        assert stands(request, "missing", clock) == []
    assert isinstance(request.error, Interrupted)


class Walk(RuleBasedStateMachine):
    """Whatever happens to a request, in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.view = PoolView(TIMINGS)
        self.request = accepted(made(self.clock))
        self.error: tuple[LlmError | None] | None = None
        self.steps: list[Step] = []

    @rule(seconds=st.sampled_from([0.01, 0.6, 3.0, LONG_S]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(
        message=st.sampled_from(
            [
                said("a"),
                said("a", "b"),
                said("a", attempt=ATTEMPT + 1),
                Deltas(attempt=ATTEMPT, worker=WORKER, lane="l", model="m", first=3, deltas=[TokenDelta(text="d")]),
                Resume(attempt=ATTEMPT + 1, worker="w2"),
                Attached(attempt=ATTEMPT, client="another"),
                Attached(attempt=ATTEMPT, client=CLIENT),
                completed(2),
                Cancelled(attempt=ATTEMPT),
            ]
        )
    )
    def receive(self, message: ChannelMessage) -> None:
        self.request.receive(message.model_copy(deep=True))

    @rule(
        state=st.sampled_from(get_args(State)), worker=st.sampled_from(["", WORKER]), owner=st.sampled_from(["", "c2"])
    )
    def follow_status(self, state: State, worker: str, owner: str) -> None:
        self.steps = stands(self.request, state, self.clock, worker=worker, owner=owner or CLIENT)

    @rule()
    def report_gap(self) -> None:
        self.request.report_gap()

    @rule(error=st.sampled_from([None, QueueFull(), PoolUnavailable(), RequestLost()]))
    def report_resubmission(self, error: LlmError | None) -> None:
        if self.request.state is RequestState.MISSING:
            self.request.report_resubmission(error)

    @rule()
    def asked(self) -> None:
        if (due := self.request.due_replay()) is not None:
            due[0].mark_sent(self.clock())

    @rule()
    def left(self) -> None:
        self.request.leave()

    @invariant()
    def an_end_is_final(self) -> None:
        """Once ended, it stays so, with the same error, and wants nothing to be done."""
        assert (self.request.state is RequestState.ENDED) == self.request.ended
        if self.error is not None:
            assert self.request.error is self.error[0]
        if self.request.ended:
            self.error = (self.request.error,)
            assert self.request.waiting is None
            assert stands(self.request, "missing", self.clock) == []

    @invariant()
    def what_is_wanted_fits_its_state(self) -> None:
        """A request is submitted again only while the pool does not know it."""
        if "resubmit" in self.steps:
            assert self.request.state is RequestState.MISSING
        self.steps = []

    @invariant()
    def a_queued_request_says_why_it_waits(self) -> None:
        """Even in mid-answer, if the pool has said so."""
        if self.request.state is RequestState.QUEUED and self.request.text:
            assert self.request.waiting is not None


TestWalk = Walk.TestCase


async def test_an_end_that_is_repeated_without_what_is_missing_is_believed_after_a_while() -> None:
    """The worker that had the beginning died, and an agent attached too late: no worker can send it again."""
    clock = Clock()
    request = made(clock, copy=False)
    accepted(request).receive(completed(3))
    for _ in range(100):
        replay = request.due_replay()
        if replay is not None:
            replay[0].mark_sent(clock())
            request.receive(completed(3))
        if request.ended:
            break
        clock.now += 0.1
    assert isinstance(request.error, Interrupted)
    assert clock.now < 1000 + 2 * TIMINGS.ended_patience_s
    assert not request.must_be_cancelled


async def test_a_time_to_live_that_passes_during_an_outage_names_the_outage() -> None:
    """The answer ran, so neither a shorter answer nor a longer time to live would help. After the outage it is over."""
    clock = Clock()
    request = in_state(RequestState.RUNNING, clock, part=True)
    request.report_outage("no Redis server answers")
    request.expire()
    assert isinstance(request.error, DeadlineExceeded)
    assert "no Redis server answers" in request.error.message
    for event in ("running in the pool", "a message"):
        again = in_state(RequestState.RUNNING, clock, part=True)
        again.report_outage("no Redis server answers")
        EVENTS[event](again, clock)
        again.expire()
        assert again.error is not None
        assert "Redis" not in again.error.message
