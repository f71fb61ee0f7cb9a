"""A router's turn: what it does, however often it is rung."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest
from tests.lanes import lane_view
from tests.waiting import until

from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.contract.messages import Needs, Priority, new_id
from tokenlane.routing.decide.order import Head, Queue
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.router import plan, run_router
from tokenlane.routing.store.beats import Swept
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.survey import Survey
from tokenlane.routing.support.tasks import InternalErrors, background


class BusyPool:
    """A pool where something happens whenever a router looks, so that it is rung all the time."""

    def __init__(self) -> None:
        self.keys = Keys("main", 0)
        self.internal_errors = InternalErrors()
        self.requests = self.beats = self.policies = self
        self.bells: dict[str, object] = {}
        self.sweeps = 0
        self.ring: Callable[[], None] = lambda: None

    async def sweep(self, router: str, *, rank_only: bool = False, revision: int | None = None) -> Swept:
        self.sweeps += 1
        return Swept(0, False, 0, 0, 0, 0)

    async def survey(self) -> Survey:
        self.ring()
        await asyncio.sleep(0)
        return Survey(0, 0, (), ())

    async def read(self) -> Policy:
        return Policy()

    async def subscribe(self, channel: str, receive: object, missed: Callable[[], None]) -> None:
        self.bells[channel] = missed
        self.ring = missed

    def unsubscribe(self, channel: str) -> None:
        del self.bells[channel]


async def test_a_busy_router_sweeps() -> None:
    """A doorbell that never rests keeps no router from sweeping."""
    pool = BusyPool()
    async with background() as tasks:
        tasks.create_task(run_router(cast("Pool", pool), cast("Hub", pool), host="here"))
        await until(lambda: pool.sweeps >= 3)
    assert pool.bells == {}


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
    async with background() as tasks:
        tasks.create_task(run_router(cast("Pool", pool), cast("Hub", pool), host="here"))
        await until(lambda: min(pool.begun["silent"], pool.begun["gone"]) == 1)
    assert asyncio.all_tasks() == before


def test_lanes_go_to_roles_by_weight() -> None:
    """Where there is less room than what waits, the policy's weights say whose it is."""
    heads = [
        Head(Queue(role, "chat", "normal", Needs()), "a", new_id(), 0, more=True, served=0, waited_ms=0, place=place)
        for role in ("planner", "coder")
        for place in range(8)
    ]
    lane = lane_view("first", "p", limit=8)
    policy = Policy(roles={"coder": RolePolicy(weight=3)})
    placed = plan(Survey(0, 7, tuple(heads), (lane,)), policy).placements
    assert Counter(placement.head.queue.role for placement in placed) == {"coder": 6, "planner": 2}


def test_who_finds_the_best_lane_taken_has_the_next() -> None:
    """Lanes fill up one after another; a lane for which more of a priority waits is left alone by lower ones."""

    def heads(role: str, priority: Priority, times: int) -> list[Head]:
        queue = Queue(role, "chat", priority, Needs())
        return [Head(queue, "a", new_id(), 0, more=True, served=0, waited_ms=0, place=place) for place in range(times)]

    room = {"first": 2, "second": 3, "third": 3}
    lanes = tuple(lane_view(name, "p", limit=limit) for name, limit in room.items())
    routes = {"planner": ("first", "second"), "coder": ("second", "third")}
    roles = {role: RolePolicy(route=tuple(Candidate(lane=it) for it in route)) for role, route in routes.items()}
    waiting = (*heads("coder", "low", 4), *heads("planner", "normal", 4))
    placed = plan(Survey(0, 7, waiting, lanes), Policy(roles=roles)).placements
    lanes_of = [(placement.head.queue.role, placement.lane) for placement in placed]
    assert lanes_of == [("planner", "first")] * 2 + [("planner", "second")] * 2 + [("coder", "third")] * 3


@pytest.mark.parametrize("model", ["another", None])
def test_nothing_is_refused_before_all_lanes_that_live_were_heard(model: str | None) -> None:
    """Of a server that was wiped or away, workers that live are still to be heard of: what waits there for a lane, or
    for another one than those known by now, waits until each has had the time to beat."""
    policy = Policy(patience_ms=0, lease_ms=3_000)
    known = () if model is None else (lane_view("first", "first"),)
    queue = Queue("planner", "chat", "normal", Needs(model=model))
    head = Head(queue, "agent", "id", 0, more=False, served=0, waited_ms=60_000)
    for watched_ms, refusals in ((0, 0), (1_999, 0), (2_000, 1), (math.inf, 1)):
        assert len(plan(Survey(0, 0, (head,), known, watched_ms=watched_ms), policy).refusals) == refusals
