"""A router's turn: what it does, however often it is rung."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import cast

import pytest
from tests.waiting import until

from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.contract.messages import Envelope, Kind, Needs, Priority, new_id
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.order import Head, Queue
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.router import plan, run_router
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies import Started, Survey, Swept
from tokenlane.routing.support.tasks import InternalErrors, background


class BusyPool:
    """A pool where something happens whenever a router looks, so that it is rung all the time."""

    def __init__(self) -> None:
        self.keys = Keys("main", 0)
        self.internal_errors = InternalErrors()
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

    async def policy(self) -> Policy:
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


class AbsentPool(BusyPool):
    """A pool that is there to be looked at, and then gone. `begun`: how often it was asked to start something."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    async def survey(self) -> Survey:
        lanes = [LaneView(name, name, "http://there", ("m",), 1, 0, 1, 0) for name in ("own", "other")]
        queues = [Queue("planner", "chat", "normal", Needs(provider=lane.name)) for lane in lanes]
        heads = (Head(it, "agent", new_id(), 0, more=False, served=0, waited_ms=0) for it in queues)
        return Survey(0, 0, tuple(heads), tuple(lanes))

    async def dispatch(self, *_: object) -> int | None:
        raise PoolUnavailable("gone")

    async def dispatch_and_start(self, *_: object) -> Started | None:
        self.begun += 1
        raise PoolUnavailable("gone")


class OneSlot:
    """A worker of lane `own`. `given_up`: how often a slot that was kept was given up."""

    worker = "worker"
    lane = "own"
    kind: Kind = "chat"
    given_up = 0

    def __init__(self) -> None:
        self.runs: list[str] = []

    def reserve(self) -> bool:
        return True

    def take(self, started: Started | None, request_id: str) -> None:
        self.given_up += started is None
        if started is not None:
            self.runs.append(request_id)


async def test_a_router_that_ends_leaves_nothing_behind() -> None:
    """While one start is asked for again, another dispatch fails: the router waits for both, and stops both."""
    pool, worker, before = AbsentPool(), OneSlot(), asyncio.all_tasks()
    async with background() as tasks:
        tasks.create_task(run_router(cast("Pool", pool), cast("Hub", pool), host="here", own=[worker]))
        await until(lambda: pool.begun >= 2)
        assert worker.given_up == 0
    assert worker.given_up == 1
    assert asyncio.all_tasks() == before


class LostReplies(AbsentPool):
    """A pool whose answers to a start are lost, but for the third. `tokens`: of all that were sent."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[object] = []

    async def dispatch_and_start(self, *asked: object) -> Started | None:
        head, _, _, token, *_ = asked
        assert isinstance(head, Head)
        self.tokens.append(token)
        if len(self.tokens) < 3:
            raise PoolUnavailable("gone")
        if len(self.tokens) > 3:
            return None
        envelope = Envelope(id=head.id, client="client", agent="agent", role="planner")
        return Started(1, envelope, b"", "m", 1, 1000, 0, cancelled=False)


async def test_a_start_whose_answer_was_lost_is_asked_for_again() -> None:
    """It is the same start each time, and what comes of it is run once."""
    pool, worker = LostReplies(), OneSlot()
    async with background() as tasks:
        tasks.create_task(run_router(cast("Pool", pool), cast("Hub", pool), host="here", own=[worker]))
        await until(lambda: bool(worker.runs))
    assert len(worker.runs) == 1
    assert len(set(pool.tokens[:3])) == 1


class TwoLanes(BusyPool):
    """Lanes `first` and `second`, with one slot each, that are always seen free. `given`: lane by request."""

    def __init__(self) -> None:
        super().__init__()
        self.given: dict[str, str] = {}
        self.surveys = 0
        self.waiting: tuple[Head, ...] = ()
        self.hear: Callable[[bytes], None] = lambda _: None

    async def survey(self) -> Survey:
        self.surveys += 1
        lanes = (LaneView(name, name, "http://there", ("m",), 1, 0, 1, 0) for name in ("first", "second"))
        heads, self.waiting = self.waiting, ()
        return Survey(0, 0, heads, tuple(lanes))

    async def policy(self) -> Policy:
        route = (Candidate(lane="first"), Candidate(lane="second"))
        return Policy(roles={"planner": RolePolicy(route=route)})

    async def dispatch(self, head: Head, lane: str, *_: object) -> int | None:
        self.given[head.id] = lane
        return 1

    async def subscribe(self, channel: str, receive: object, missed: Callable[[], None]) -> None:
        await super().subscribe(channel, receive, missed)
        self.hear = cast("Callable[[bytes], None]", receive)

    def submit(self) -> str:
        """A request comes, and its bell says that it waits alone."""
        head = Head(
            Queue("planner", "chat", "normal", Needs()), "agent", new_id(), 0, more=False, served=0, waited_ms=0
        )
        self.waiting = (head,)
        self.hear(json.dumps([head.queue.name, head.agent, head.id, 0, 0]).encode())
        return head.id


async def test_a_bell_places_on_the_first_choice_or_has_the_pool_looked_at() -> None:
    """What rings is placed without a look at the pool, but not on a second choice because of what was seen before: the
    lane that was full by then may be free."""
    pool = TwoLanes()
    async with background() as tasks:
        tasks.create_task(run_router(cast("Pool", pool), cast("Hub", pool), host="here"))
        await until(lambda: pool.surveys >= 1)
        for _ in range(5):
            rung = pool.submit()
            await until(lambda rung=rung: rung in pool.given)  # type: ignore[misc]  # bound per turn
    assert set(pool.given.values()) == {"first"}


def test_lanes_go_to_roles_by_weight() -> None:
    """Where there is less room than what waits, the policy's weights say whose it is."""
    heads = [
        Head(Queue(role, "chat", "normal", Needs()), "a", new_id(), 0, more=True, served=0, waited_ms=0, place=place)
        for role in ("planner", "coder")
        for place in range(8)
    ]
    lane = LaneView("first", "p", "http://there", ("m",), 8, 0, 1, 0)
    policy = Policy(roles={"coder": RolePolicy(weight=3)})
    placed = plan(Survey(0, 7, tuple(heads), (lane,), "7:3"), policy).placements
    assert Counter(placement.head.queue.role for placement in placed) == {"coder": 6, "planner": 2}


def test_who_finds_the_best_lane_taken_has_the_next() -> None:
    """Lanes fill up one after another; a lane for which more of a priority waits is left alone by lower ones."""

    def heads(role: str, priority: Priority, times: int) -> list[Head]:
        queue = Queue(role, "chat", priority, Needs())
        return [Head(queue, "a", new_id(), 0, more=True, served=0, waited_ms=0, place=place) for place in range(times)]

    room = {"first": 2, "second": 3, "third": 3}
    lanes = tuple(LaneView(name, "p", "http://there", ("m",), limit, 0, 1, 0) for name, limit in room.items())
    routes = {"planner": ("first", "second"), "coder": ("second", "third")}
    roles = {role: RolePolicy(route=tuple(Candidate(lane=it) for it in route)) for role, route in routes.items()}
    waiting = (*heads("coder", "low", 4), *heads("planner", "normal", 4))
    placed = plan(Survey(0, 7, waiting, lanes, "7:3"), Policy(roles=roles)).placements
    told = [(placement.head.queue.role, placement.lane, placement.preferred) for placement in placed]
    assert (
        told == [("planner", "first", True)] * 2 + [("planner", "second", False)] * 2 + [("coder", "third", False)] * 3
    )


@pytest.mark.parametrize(("names", "sole_by"), [(("first",), "7:3"), (("first", "second"), "")])
def test_a_placement_says_whether_another_lane_could_have_had_it(names: Sequence[str], sole_by: str) -> None:
    """A lane that has no credit, or is away, could have it later."""
    queue = Queue("planner", "chat", "normal", Needs())
    head = Head(queue, "agent", new_id(), 0, more=False, served=0, waited_ms=0)
    lanes = tuple(LaneView(name, "p", "http://there", ("m",), 1, 0, int(name == "first"), 0) for name in names)
    (placement,) = plan(Survey(0, 7, (head,), lanes, "7:3"), Policy()).placements
    assert (placement.lane, placement.sole_by) == ("first", sole_by)


@pytest.mark.parametrize("model", ["another", None])
def test_nothing_is_refused_before_all_lanes_that_live_were_heard(model: str | None) -> None:
    """Of a server that was wiped or away, workers that live are still to be heard of: what waits there for a lane, or
    for another one than those known by now, waits until each has had the time to beat."""
    policy = Policy(patience_ms=0, lease_ms=3_000)
    known = () if model is None else (LaneView("first", "first", "http://there", ("m",), 1, 0, 1, 0),)
    queue = Queue("planner", "chat", "normal", Needs(model=model))
    head = Head(queue, "agent", "id", 0, more=False, served=0, waited_ms=60_000)
    for watched_ms, refusals in ((0, 0), (1_999, 0), (2_000, 1), (math.inf, 1)):
        assert len(plan(Survey(0, 0, (head,), known, watched_ms=watched_ms), policy).refusals) == refusals
