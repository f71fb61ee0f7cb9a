"""A router's turn: what it does, however often it is rung."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import pytest
from tests.lanes import lane_view
from tests.waiting import until

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.plan import Survey
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.recovery import History, WorkerLost
from tokenlane.routing.decide.role_fairness import Head
from tokenlane.routing.router import Timings, run_router
from tokenlane.routing.store.beats import SweepReply
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.lapsed import LapsedAttempt
from tokenlane.routing.support.tasks import InternalErrors, background

_LONG_S = 3600.0
_IDLE = SweepReply(0, False)


class BusyPool:
    """A pool where something happens whenever a router looks, so that it is rung all the time."""

    def __init__(self) -> None:
        self.keys = Keys("main", 0)
        self.internal_errors = InternalErrors()
        self.requests = self.beats = self.policies = self
        self.bells: dict[str, object] = {}
        self.rules = Policy()
        self.sweeps = 0
        self.ring: Callable[[], None] = lambda: None

    async def sweep(self, router: str, *, rank_only: bool = False, revision: int | None = None) -> SweepReply:
        self.sweeps += 1
        return SweepReply(0, False)

    async def survey(self) -> Survey:
        self.ring()
        await asyncio.sleep(0)
        return Survey(0, 0, (), ())

    async def read(self) -> Policy:
        return self.rules

    async def subscribe(self, channel: str, receive: object, missed: Callable[[], None]) -> None:
        self.bells[channel] = missed
        self.ring = missed

    def unsubscribe(self, channel: str) -> None:
        del self.bells[channel]


@asynccontextmanager
async def routing(pool: BusyPool, timings: Timings) -> AsyncIterator[None]:
    """A router of the pool, at work."""
    async with background() as tasks:
        tasks.create_task(run_router(cast("Pool", pool), cast("Hub", pool), host="here", timings=timings))
        yield


async def test_a_busy_router_sweeps() -> None:
    """A router sweeps even if its doorbell rings all the time."""
    pool = BusyPool()
    async with routing(pool, Timings(sweep_every_s=0.01, rest_s=_LONG_S)):
        await until(lambda: pool.sweeps >= 3)
    assert pool.bells == {}


class SteadyPool(BusyPool):
    """A pool that does not ring by itself. `swept`: what its sweeps find."""

    def __init__(self, swept: SweepReply) -> None:
        super().__init__()
        self.swept = swept
        self.surveys = 0

    async def sweep(self, router: str, *, rank_only: bool = False, revision: int | None = None) -> SweepReply:
        self.sweeps += 1
        return self.swept

    async def survey(self) -> Survey:
        self.surveys += 1
        return Survey(0, 0, (), ())


async def test_a_router_at_rest_is_woken_by_a_bell() -> None:
    """It looks at what rang, and sweeps soon, for something may wait or run now."""
    pool = SteadyPool(_IDLE)
    async with routing(pool, Timings(sweep_every_s=0.01, rest_s=_LONG_S)):
        await until(lambda: pool.surveys == 1)
        await asyncio.sleep(0)
        pool.ring()
        await until(lambda: pool.sweeps == 2)
        assert pool.surveys >= 2


@pytest.mark.parametrize(
    ("swept", "timings", "lease_ms"),
    [
        (replace(_IDLE, waits=True), Timings(sweep_every_s=0.01, rest_s=_LONG_S), 10_000),
        (replace(_IDLE, runs=True), Timings(sweep_every_s=0.01, rest_s=_LONG_S), 10_000),
        (replace(_IDLE, due_ms=20), Timings(sweep_every_s=_LONG_S, rest_s=_LONG_S), 7_200_000),
        (_IDLE, Timings(sweep_every_s=_LONG_S, rest_s=0.01), 10_000),
        (_IDLE, Timings(sweep_every_s=_LONG_S, rest_s=_LONG_S), 300),
    ],
    ids=["waits", "runs", "something is due", "rested", "a lease passes"],
)
async def test_a_router_needs_no_bell(swept: SweepReply, timings: Timings, lease_ms: int) -> None:
    """It sweeps when something is due, or may be without its knowing."""
    pool = SteadyPool(swept)
    pool.rules = Policy(lease_ms=lease_ms)
    async with routing(pool, timings):
        await until(lambda: pool.sweeps >= 3)


async def test_a_router_that_stands_by_asks_for_its_rank_as_often_as_the_pool_wants() -> None:
    """It sweeps once, learns that two others do so, and only asks from then on."""
    pool = SteadyPool(SweepReply(2, False, due_ms=10))
    async with routing(pool, Timings(sweep_every_s=_LONG_S, rest_s=_LONG_S)):
        await until(lambda: pool.sweeps >= 4)
    assert pool.surveys == 0


async def test_an_unexpected_error_in_one_recovery_does_not_stop_the_router() -> None:
    """The error is counted. The router recovers the other requests, and dispatches."""

    class Stumbling(SteadyPool):
        def __init__(self) -> None:
            lapsed = (LapsedAttempt(name, 1, None, WorkerLost(), History()) for name in ("bug", "fine"))
            super().__init__(replace(_IDLE, lapsed=tuple(lapsed)))
            self.requeued: list[str] = []

        async def requeue(self, request_id: str, *_: object, **__: object) -> str:
            if request_id == "bug":
                raise ZeroDivisionError
            self.requeued.append(request_id)
            return "waiting"

    pool = Stumbling()
    async with routing(pool, Timings(sweep_every_s=_LONG_S, rest_s=_LONG_S)):
        await until(lambda: pool.surveys == 1)
    assert (pool.requeued, pool.internal_errors.count) == (["fine"], 1)


@pytest.mark.parametrize(
    ("swept", "surveys"),
    [(replace(_IDLE, runs=True), False), (replace(_IDLE, waits=True), True), (replace(_IDLE, revision=1), True)],
    ids=["something runs", "something waits", "the policy is new"],
)
async def test_only_what_a_sweep_finds_has_a_router_survey(swept: SweepReply, surveys: bool) -> None:
    """But for the first time, when it has no policy yet; what it missed the bell of is found by the sweep."""
    pool = SteadyPool(swept)
    async with routing(pool, Timings(sweep_every_s=0.01, rest_s=0.01)):
        await until(lambda: pool.sweeps >= 4)
        assert (pool.surveys > 1) is surveys


class ChoosyLanes(BusyPool):
    """Three lanes that are always seen free, of which two refuse all. `waiting`: the requests that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = {new_id(): Queue("planner", "chat", "normal", Needs(size=size)) for size in (1, 2)}
        self.rules = Policy(roles={"planner": RolePolicy(route=tuple(Candidate(lane=name) for name in "abc"))})

    async def survey(self) -> Survey:
        lanes = tuple(lane_view(name, limit=4) for name in "abc")
        heads = (Head(it, "agent", key, 0, more=False, served=0, waited_ms=0) for key, it in self.waiting.items())
        return Survey(0, 0, tuple(heads), lanes)

    async def dispatch(self, head: Head, lane: str, *_: object) -> int | None:
        if lane != "c":
            return None
        del self.waiting[head.id]
        return 1


async def test_a_refused_request_gets_another_lane_at_once() -> None:
    """This needs no other sweep and no doorbell."""
    pool = ChoosyLanes()
    async with routing(pool, Timings(sweep_every_s=_LONG_S, rest_s=_LONG_S)):
        await until(lambda: not pool.waiting)


class GonePool(BusyPool):
    """A pool that can be looked at, and then does not answer or is gone. `begun`: dispatches by lane."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: Counter[str] = Counter()

    async def survey(self) -> Survey:
        lanes = [lane_view(name, name) for name in ("silent", "gone")]
        queues = [Queue("planner", "chat", "normal", Needs(provider=lane.name)) for lane in lanes]
        heads = (Head(it, "agent", new_id(), 0, more=False, served=0, waited_ms=0) for it in queues)
        return Survey(0, 0, tuple(heads), tuple(lanes))

    async def dispatch(self, _: Head, lane: str, *__: object) -> int | None:
        self.begun[lane] += 1
        if lane == "silent":
            await asyncio.Event().wait()
        raise PoolUnavailable("gone")


async def test_a_router_that_ends_leaves_nothing_behind() -> None:
    """It stops a dispatch that is waited for, though another has failed meanwhile."""
    pool, before = GonePool(), asyncio.all_tasks()
    async with routing(pool, Timings()):
        await until(lambda: min(pool.begun["silent"], pool.begun["gone"]) == 1)
    assert asyncio.all_tasks() == before
