"""Requests that `submit` starts at once: where it does, where not, and that nothing is lost if nobody hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from tests.integration import life
from tests.integration.life import AGENT, CLIENT, LANE, PAYLOAD, PREFIX, ROLE, ROUTER, WORKER, audit, raw
from tests.waiting import until
from tests.workshop import Asker, FakeProvider, ask, serving

from tokenlane.routing.contract.messages import ChatRequest, Envelope, Message, new_id
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.router import run_router
from tokenlane.routing.store.hub import Hub, open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies import Started, read_bell
from tokenlane.routing.support.tasks import background
from tokenlane.worker.assembly import drain

BELL = "doorbell:lane1"
_HEARD_MS = 60_000  # a router of a slow machine is heard all the same


@pytest.fixture
async def hub(pool: Pool) -> AsyncIterator[Hub]:
    """The agents' hub."""
    async with open_hub(pool) as hub:
        yield hub


async def make_shortcut(pool: Pool, worker: str = WORKER, of: Envelope | None = None) -> None:
    """A router has placed a request of the queue on the only lane that can have it, and it has ended."""
    await pool.sweep(ROUTER)
    await raw(pool).zincrby(f"{PREFIX}routers", _HEARD_MS, ROUTER)
    asked = await life.submit(pool, of)
    survey = await pool.survey()
    head = await life.head(pool, asked)
    started = await pool.dispatch_and_start(head, LANE.lane, "m1", new_id(), worker, survey.view, ROUTER)
    assert started is not None
    done = life.ended_message(started.attempt)
    assert await pool.finish(asked, started.attempt, worker, "completed", 3, "", done)


class Bells:
    """What has rung at the lane."""

    def __init__(self) -> None:
        self.rung: list[bytes] = []

    def told(self) -> Started:
        """The one request that was told to be started."""
        (bell,) = self.rung
        told = read_bell(bell)
        assert isinstance(told, Started)
        return told


@pytest.fixture
async def bells(pool: Pool, hub: Hub) -> Bells:
    """Hears the lane's bell."""
    bells = Bells()
    await hub.subscribe(pool.keys.lane_doorbell(LANE.lane), bells.rung.append)
    return bells


async def heard(pool: Pool, hub: Hub) -> None:
    """Wait until all that was published has come."""
    over = asyncio.Event()
    await hub.subscribe("over", lambda _: over.set())
    await pool.publish([("over", b"")])
    await over.wait()
    hub.unsubscribe("over")


async def test_a_lone_request_is_started_where_the_last_one_was(pool: Pool, hub: Hub, bells: Bells) -> None:
    """Its worker is told all that `start` would say; sent twice, it is told once."""
    await life.open_lane(pool)
    await make_shortcut(pool)
    sent = life.envelope()
    await life.submit(pool, sent)
    await life.submit(pool, sent)
    await heard(pool, hub)
    told = bells.told()
    assert (told.envelope, told.payload, told.model, told.starts) == (sent, PAYLOAD, "m1", 1)
    assert 0 < told.left_ms <= 600_000
    assert sorted((await audit(pool.redis)).values()) == ["completed", "running"]
    assert await life.finish(pool, life.Asked(sent.id, told.attempt))


async def test_whoever_did_not_hear_it_starts_it_all_the_same(pool: Pool) -> None:
    """The job is in the lane's queue, without a mark, and `start` gives it to that worker and to no other."""
    await life.open_lane(pool)
    await make_shortcut(pool)
    asked = await life.submit(pool)
    (standing,) = (await pool.check(CLIENT, [asked])).standings
    assert (standing.state, standing.worker) == ("running", WORKER)
    assert await raw(pool).keys("{main}:arq:in-progress:*") == []
    assert await pool.start(asked, standing.attempt, "another") is None
    for _ in range(2):
        started = await pool.start(asked, standing.attempt, WORKER)
        assert started is not None
        assert (started.payload, started.starts) == (PAYLOAD, 1)
    assert len(await raw(pool).keys("{main}:arq:in-progress:*")) == 1


async def test_a_dead_worker_has_it_for_a_lease(pool: Pool) -> None:
    """Then it waits again, and the lane takes nothing."""
    await life.open_lane(pool)
    await make_shortcut(pool)
    asked = await life.submit(pool)
    now_ms = (await pool.survey()).now_ms
    lapses_ms = await raw(pool).zscore(f"{PREFIX}leases", asked)
    assert now_ms + Policy().start_lease_ms < lapses_ms <= now_ms + Policy().lease_ms
    await life.pass_lease(pool, asked)
    assert (await life.sweep(pool)).requeued == 1
    assert await life.state_of(pool, asked) == "waiting"
    assert (await life.state_of(pool, await life.submit(pool))) == "waiting"
    await audit(pool.redis)


async def test_a_renewed_one_is_no_matter_of_others(pool: Pool) -> None:
    """The worker's beat puts ARQ's mark on it, so that a worker that joins does not ask for it again and again."""
    await life.open_lane(pool)
    await make_shortcut(pool)
    asked = await life.submit(pool)
    (standing,) = (await pool.check(CLIENT, [asked])).standings
    assert await life.beat(pool, WORKER, LANE, life.hold(life.Asked(asked, standing.attempt))) == ("mine",)
    marks = await raw(pool).keys("{main}:arq:in-progress:*")
    assert marks == [f"{{main}}:arq:in-progress:{{main}}{asked}:{standing.attempt}".encode()]


async def _none(pool: Pool) -> None:
    assert await raw(pool).delete(*await raw(pool).keys(f"{PREFIX}shortcut:*")) == 1


async def _other_policy(pool: Pool) -> None:
    await pool.set_policy(Policy(lease_ms=9_000))


async def _other_models(pool: Pool) -> None:
    await life.beat(pool, WORKER, replace(LANE, models=("m2",)))


async def _other_lane(pool: Pool) -> None:
    await life.beat(pool, "worker2", replace(LANE, lane="lane2"))


async def _second_worker(pool: Pool) -> None:
    await life.beat(pool, "worker2")


async def _withdrawn(pool: Pool) -> None:
    await pool.renew(WORKER, LANE, [], takes_new_work=False)


async def _silent(pool: Pool) -> None:
    await raw(pool).zadd(f"{PREFIX}lane:lane1:workers", {WORKER: 1})


async def _asleep(pool: Pool) -> None:
    await raw(pool).zincrby(f"{PREFIX}routers", -_HEARD_MS - 600, ROUTER)


async def _full(pool: Pool) -> None:
    for _ in range(LANE.limit):
        assert await life.state_of(pool, await life.submit(pool)) == "running"


async def _another_waits(pool: Pool) -> None:
    await life.submit(pool, life.envelope(role="coder"))


CHANGES: list[Callable[[Pool], Awaitable[None]]] = [
    _none,
    _other_policy,
    _other_models,
    _other_lane,
    _second_worker,
    _withdrawn,
    _silent,
    _asleep,
    _full,
    _another_waits,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
async def test_what_a_router_is_to_decide_waits(pool: Pool, change: Callable[[Pool], Awaitable[None]]) -> None:
    """Whatever may have changed the choice, or makes others come first, makes the request wait for a router."""
    await life.open_lane(pool)
    await make_shortcut(pool)
    await change(pool)
    assert await life.state_of(pool, await life.submit(pool)) == "waiting"
    await audit(pool.redis)


async def test_large_ones_and_other_queues_wait(pool: Pool) -> None:
    """A payload that is no matter of a bell waits, and so does what is of another queue."""
    await life.open_lane(pool)
    await make_shortcut(pool)
    large = life.envelope()
    await pool.submit(large, b"x" * 300_000)
    assert await life.state_of(pool, large.id) == "waiting"
    assert await pool.cancel(large.id) == "cancelled"
    assert await life.state_of(pool, await life.submit(pool, life.envelope(priority="high"))) == "waiting"


async def test_a_choice_by_an_old_view_makes_no_shortcut(pool: Pool) -> None:
    """What a router saw before the lanes changed says nothing of who can have the next request."""
    await life.open_lane(pool)
    view = (await pool.survey()).view
    await _other_lane(pool)
    asked = await life.submit(pool)
    head = await life.head(pool, asked)
    assert await pool.dispatch_and_start(head, "lane1", "m1", "t", WORKER, view, ROUTER) is not None
    assert await life.state_of(pool, await life.submit(pool)) == "waiting"


async def test_each_goes_by_itself(pool: Pool) -> None:
    """Queues that are not used any more leave nothing, however busy others are."""
    await life.open_lane(pool)
    for priority in ("normal", "high"):
        await make_shortcut(pool, of=life.envelope(priority=priority))
    keys = await raw(pool).keys(f"{PREFIX}shortcut:*")
    assert len(keys) == 2
    assert all([0 < await raw(pool).ttl(key) <= 60 for key in keys])


async def test_a_beat_that_says_nothing_new_changes_no_view(pool: Pool) -> None:
    """Else every beat would undo all shortcuts."""
    await life.open_lane(pool)
    view = (await pool.survey()).view
    await life.beat(pool)
    assert (await pool.survey()).view == view


async def test_one_sent_again_after_a_loss_is_no_first_start(pool: Pool, hub: Hub, bells: Bells) -> None:
    """The worker must ask the agent how far it has got."""
    await life.open_lane(pool)
    await make_shortcut(pool)
    floor = (await pool.survey()).now_ms + 5_000
    await life.submit(pool, floor=floor)
    await heard(pool, hub)
    told = bells.told()
    assert told.starts == 2
    assert told.attempt == floor + 1


@pytest.mark.parametrize("bell", [b"\n", b"{}\n{}\n", b"[1]\n\n", b"\xff\n\xff\n\xff", b'{"attempt":1}\n{"v":2}\nx'])
def test_a_bell_that_says_nothing_is_none(bell: bytes) -> None:
    """Anybody may write to the channel, and newer versions may write otherwise."""
    assert read_bell(bell) is None


def test_a_bell_with_a_number_that_is_none_is_none() -> None:
    """JSON has no infinity, and readers of it do."""
    facts = b'{"attempt":Infinity,"model":"m1","starts":1,"left_ms":1,"waited_ms":0}'
    assert read_bell(b"%b\n%b\nx" % (facts, life.envelope().to_wire())) is None


# The worker's side.


async def short(pool: Pool, hub: Hub, worker: str) -> Asker:
    """A request that is started by submitting it."""
    request_id = new_id()
    request = ChatRequest(id=request_id, role=ROLE, messages=[Message(role="user", content="hello")])
    envelope = Envelope(id=request_id, client=CLIENT, agent=AGENT, role=ROLE)
    asker = Asker(pool)
    asker.id = request_id
    await hub.subscribe(pool.keys.deltas(request_id), asker.take)
    await make_shortcut(pool, worker, envelope.model_copy(update={"id": new_id()}))
    await pool.submit(envelope, request.to_wire())
    assert await life.state_of(pool, request_id) == "running"
    return asker


async def test_a_worker_runs_what_it_is_told(
    redis_url: str, pool: Pool, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks the server for nothing before the answer begins."""
    provider = FakeProvider()
    async with serving(redis_url, provider) as (lane, worker):
        worker._look_at = float("inf")
        monkeypatch.delattr(type(lane.pool), "start")
        asker = await short(pool, hub, lane.worker)
        await asker.completed()
    await audit(pool.redis)


async def test_a_router_makes_the_way_short(
    redis_url: str, pool: Pool, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after a request that only this worker could have is started without the router."""
    async with serving(redis_url, FakeProvider()) as (lane, worker), background() as tasks:
        tasks.create_task(run_router(lane.pool, lane.hub, host="here", own=[worker]))
        await (await ask(pool, hub)).completed()
        for way in ("dispatch", "dispatch_and_start", "start"):
            monkeypatch.delattr(type(lane.pool), way)
        for _ in range(3):
            await (await ask(pool, hub)).completed()
    await audit(pool.redis)


async def test_a_bell_that_was_lost_costs_no_request(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A worker that hears no bell finds the job in its queue."""
    async with serving(redis_url, FakeProvider(), bell=False) as (lane, _):
        asker = await short(pool, hub, lane.worker)
        await asker.completed()
    await audit(pool.redis)


async def test_a_worker_without_a_free_slot_runs_it_later(redis_url: str, pool: Pool, hub: Hub) -> None:
    """The server gave it a slot that the worker has not given up yet."""
    async with serving(redis_url, FakeProvider()) as (lane, worker):
        worker.job_counter = worker.max_jobs
        asker = await short(pool, hub, lane.worker)
        worker.job_counter = 0
        worker.wake()
        await asker.completed()
    await audit(pool.redis)


async def test_a_bell_heard_twice_is_one(redis_url: str, pool: Pool, hub: Hub) -> None:
    """Nor is what was found in the queue run again, when its bell comes at last."""
    provider = FakeProvider()
    heard: list[bytes] = []
    await hub.subscribe(pool.keys.lane_doorbell("lane1"), heard.append)
    async with serving(redis_url, provider, bell=False) as (lane, worker):
        asker = await short(pool, hub, lane.worker)
        await asker.completed()
        await until(lambda: not worker.tasks)
        worker.ring(heard[-1])
        assert not worker.tasks
    assert len(provider.requests) == 1


async def test_a_bell_heard_late_is_none(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A worker that has not beaten for a lease asks the server whether what it is told of is still its own."""
    provider = FakeProvider()
    heard: list[bytes] = []
    await hub.subscribe(pool.keys.lane_doorbell("lane1"), heard.append)
    async with serving(redis_url, provider, bell=False) as (lane, worker):
        worker.allow_pick_jobs = False
        asker = await short(pool, hub, lane.worker)
        await life.pass_lease(pool, asker.id)
        assert (await life.sweep(pool)).requeued == 1
        worker.allow_pick_jobs = True
        lane.lease._holds_until = 0.0
        worker.ring(heard[-1])
        await until(lambda: not worker.tasks)
    assert provider.requests == []
    await audit(pool.redis)


async def test_a_draining_worker_gives_back_what_it_did_not_start(redis_url: str, pool: Pool, hub: Hub) -> None:
    """What was told to a worker that picks no more jobs waits for another."""
    provider = FakeProvider()
    async with serving(redis_url, provider) as (lane, worker):
        worker.allow_pick_jobs = False
        asker = await short(pool, hub, lane.worker)
        await drain(lane, [worker], 1)
        assert await life.state_of(pool, asker.id) == "waiting"
        assert provider.requests == []
    await audit(pool.redis)


async def test_cancelling_reaches_what_was_started_so(redis_url: str, pool: Pool, hub: Hub) -> None:
    """The stream is closed, and the request ends as cancelled."""
    provider = FakeProvider(hold_after=1)
    async with serving(redis_url, provider) as (lane, _):
        asker = await short(pool, hub, lane.worker)
        await until(lambda: provider.holding == 1)
        assert await pool.cancel(asker.id) == "flagged"
        await asker.ended()
        assert await life.state_of(pool, asker.id) == "cancelled"
        assert provider.running == 0
    await audit(pool.redis)
