"""A client's beat, with a pool that answers late: whatever happens meanwhile, no stream is judged by what was before
that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast, get_args

import pytest
from tests.lanes import lane_view

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer.link.redis.heartbeat import ClientHeartbeat
from tokenlane.producer.link.redis.redis_link import RedisLink
from tokenlane.producer.link.redis.redis_request import RedisRequest
from tokenlane.producer.link.redis.request_state import RequestState
from tokenlane.producer.link.redis.timings import Timings
from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import Interrupted, LlmError, PoolUnavailable, QueueFull, RequestLost
from tokenlane.routing.contract.messages import Attached, Cancelled, ChannelMessage, Completed, Deltas, Resume
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.beats import CheckReply
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.keychain import Keychain
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import RequestStatus, State
from tokenlane.routing.support.tasks import InternalErrors, background

CLIENT, WORKER, ATTEMPT = "client", "worker", 7
STATES: tuple[State, ...] = get_args(State)


class LatePool:
    """A pool that says how a request stands, and before it does lets something happen."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.keychain = Keychain(KeyRing(), "pool 'main'")
        self.internal_errors = InternalErrors()
        self.requests = self.beats = self.policies = self
        self.state: State = "waiting"
        self.owner = CLIENT
        self.meanwhile: Callable[[], None] = lambda: None
        self.lapses_ms: int | None = None
        self.strangers: tuple[str, ...] = ()
        self.lanes: tuple[LaneView, ...] | None = None
        self.refusal: LlmError | None = None
        self.calls: list[str] = []

    async def _answer(self, call: str) -> None:
        self.calls.append(call)
        await asyncio.sleep(0)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()

    async def check(self, client: str, ids: list[str], *, held: int | None = None) -> CheckReply:
        await self._answer("check")
        ended = 1 if self.state == "completed" else None
        status = RequestStatus(self.state, ATTEMPT, WORKER, ended, "", self.owner, self.lapses_ms)
        return CheckReply(1, 1, 1, 300, 2_000, (status,) * len(ids), self.strangers, lanes=self.lanes)

    async def read(self) -> Policy:
        await self._answer("policy")
        raise PoolUnavailable("a policy of a newer version")

    async def attach(self, client: str, request_id: str) -> None:
        await self._answer("attach")

    async def cancel(self, request_id: str, leaving: str = "") -> str:
        await self._answer(f"cancel {request_id}")
        return "cancelled"

    async def fail(self, *_: object, **__: object) -> bool:
        await self._answer("fail")
        return True

    async def submit(self, envelope: Envelope, *_: object) -> str:
        await self._answer("submit")
        if self.refusal is not None:
            raise self.refusal
        return envelope.id


class Deaf:
    """A hub that hears nothing."""

    def unsubscribe(self, channel: str) -> None:
        pass


class Clock:
    """The loop's time, which a test may set ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


@asynccontextmanager
async def beating(pool: LatePool, clock: Clock | None = None) -> AsyncIterator[tuple[ClientHeartbeat, RedisLink]]:
    """A client's link and heartbeat."""
    async with background() as tasks:
        link = RedisLink(cast("Pool", pool), cast("Hub", Deaf()), tasks, CLIENT, Timings())
        heartbeat = ClientHeartbeat(cast("Pool", pool), link, Timings())
        link._clock = heartbeat._clock = clock or Clock()
        yield heartbeat, link


def opened(link: RedisLink, *texts: str, copy: bool = True) -> RedisRequest:
    """A request that was accepted, and what has come of it."""
    envelope = Envelope(id=new_id(), client=CLIENT, agent="a", role="r")
    sent = (envelope, b"") if copy else None
    request = RedisRequest(envelope.id, CLIENT, Timings(), link._clock, copy=sent, deadline=link._clock() + 600)
    link._requests[request.id] = [request]
    with request.sending():
        pass
    if texts:
        request.receive(said(0, *texts))
    return request


def said(first: int, *texts: str, attempt: int = ATTEMPT) -> Deltas:
    """What a worker says."""
    deltas = [TokenDelta(text=text) for text in texts]
    return Deltas(attempt=attempt, worker=WORKER, lane="l", model="m", first=first, deltas=deltas)


COMPLETED = Completed(attempt=ATTEMPT, worker=WORKER, lane="l", model="m", first=1, end=1, usage=Usage())
HAPPENS: dict[str, ChannelMessage | None] = {
    "nothing": None,
    "a delta": said(1, "b"),
    "the end": COMPLETED,
    "cancelled": Cancelled(attempt=ATTEMPT),
    "a newer attempt": Resume(attempt=ATTEMPT + 1, worker="w2"),
    "another owner": Attached(attempt=ATTEMPT, client="c2"),
    "left": None,
}


@pytest.mark.parametrize("happens", HAPPENS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("rounds", [1, 4])
async def test_what_happens_while_the_pool_is_asked(happens: str, state: State, begun: bool, rounds: int) -> None:
    """Nothing of it is a bug, and what was heard is not undone: an answer that has ended stays as it ended."""
    pool, clock = LatePool(), Clock()
    async with beating(pool, clock) as (heartbeat, link):
        request = opened(link, *(["a"] if begun else []))
        pool.state = state
        ended: list[tuple[bool, LlmError | None]] = []

        def happen() -> None:
            message = HAPPENS[happens]
            if message is not None:
                link._receive(request.id, message.to_wire())
            elif happens == "left":
                link.leave(request)
            ended.append((request.ended, request.error))

        for number in range(rounds):
            if number == rounds - 1:
                pool.meanwhile = happen
            clock.ahead_s += 60
            await heartbeat.beat([request])
        if ended and ended[0][0]:
            assert request.error is ended[0][1]
    assert pool.internal_errors.count == 0


async def test_a_message_while_a_lost_request_is_looked_into() -> None:
    """What is heard of a request takes back that it is missing, whenever it comes."""
    pool, clock = LatePool(), Clock()
    pool.state = "missing"
    async with beating(pool, clock) as (heartbeat, link):
        request = opened(link)
        await heartbeat.beat([request])
        assert request.state == "missing"
        clock.ahead_s += 60
        pool.meanwhile = lambda: link._receive(request.id, said(0, "a").to_wire())
        await heartbeat.beat([request])
        assert request.state == "running"
        assert "submit" not in pool.calls
    assert pool.internal_errors.count == 0


@pytest.mark.parametrize(
    ("refusal", "begun", "copy", "ends"),
    [
        (None, False, True, None),
        (QueueFull("no memory"), False, True, None),
        (RequestLost(), False, True, RequestLost),
        (None, True, True, None),
        (RequestLost(), True, True, Interrupted),
        (None, False, False, RequestLost),
        (None, True, False, Interrupted),
    ],
)
async def test_what_the_pool_has_lost(
    refusal: LlmError | None, begun: bool, copy: bool, ends: type[LlmError] | None
) -> None:
    """The client submits the request again with every beat until the pool accepts it, even if part of the answer has
    arrived; it cannot if another client has sent the request."""
    pool, clock = LatePool(), Clock()
    pool.state, pool.refusal = "missing", refusal
    async with beating(pool, clock) as (heartbeat, link):
        request = opened(link, *(["a"] if begun else []), copy=copy)
        await heartbeat.beat([request])
        for _ in range(2):
            if request.state is RequestState.MISSING:
                clock.ahead_s += 60
                await heartbeat.beat([request])
        assert (None if request.error is None else type(request.error)) is ends
        assert pool.calls.count("submit") == (0 if not copy else 2 if isinstance(refusal, QueueFull) else 1)


@pytest.mark.parametrize("owned", [True, False])
async def test_an_answer_that_broke_off_waits_for_a_lane(owned: bool) -> None:
    """No reader gives it up, however long no lane continues it."""
    pool, clock = LatePool(), Clock()
    async with beating(pool, clock) as (heartbeat, link):
        request = opened(link, "a")
        request.owned = owned
        for _ in range(3):
            await heartbeat.beat([request])
            clock.ahead_s += 60
        assert request.state is RequestState.QUEUED
        assert "queue" in (request.waiting or "")
        assert set(pool.calls) == {"check"}
        request.receive(said(1, "b", attempt=ATTEMPT + 1))
        assert (str(request.state), request.waiting, request.text) == ("running", None, "ab")


@pytest.mark.parametrize(("happens", "looks"), [("nothing", 1), ("a delta", 0), ("the end", 0), ("left", 0)])
async def test_the_end_of_a_lease_is_looked_at_only_where_nothing_came(happens: str, looks: int) -> None:
    """A stream of which something has come since its lease was seen is not asked about when that lease is over."""
    pool = LatePool()
    pool.state, pool.lapses_ms = "running", 0
    async with beating(pool) as (heartbeat, link):
        request = opened(link, "a")
        await heartbeat.beat([request])
        assert request.check_at < link._clock() + 1
        pool.calls.clear()
        pool.lapses_ms = None
        message = HAPPENS[happens]
        if message is not None:
            link._receive(request.id, message.to_wire())
        elif happens == "left":
            link.leave(request)
        await heartbeat._check_requests_until(link._clock() + 0.05)
        assert pool.calls.count("check") == looks


async def test_what_this_client_does_not_hold_is_cancelled() -> None:
    """Of the requests that the server has of a client, those that it holds are left alone."""
    pool = LatePool()
    async with beating(pool) as (heartbeat, link):
        request = opened(link)
        pool.strangers = (request.id, "f" * 32)
        await heartbeat.beat([], counts_requests=True)
        assert [call for call in pool.calls if call.startswith("cancel")] == [f"cancel {'f' * 32}"]


async def test_a_pool_that_is_away_is_told() -> None:
    """A step that finds the pool away ends the beat, not the stream."""
    pool, clock = LatePool(), Clock()
    pool.state, pool.refusal = "missing", PoolUnavailable()
    async with beating(pool, clock) as (heartbeat, link):
        request = opened(link)
        await heartbeat.beat([request])
        clock.ahead_s += 60
        with pytest.raises(PoolUnavailable):
            await heartbeat.beat([request])
        assert request.state == "missing"


async def test_a_policy_nobody_can_read_ends_no_heartbeat() -> None:
    """Streams are seen to all the same, by what the pool says of them."""
    pool = LatePool()
    pool.state, pool.lanes = "cancelled", (lane_view("l", state="gone"),)
    async with beating(pool) as (heartbeat, link):
        request = opened(link)
        await heartbeat.beat([request])
        assert "policy" in pool.calls
        assert request.replays.are_wanted or request.ended
