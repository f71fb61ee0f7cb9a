"""What an agent reads of a request that waits: the cause, the place and the estimate that operators read, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from tests.integration import life
from tests.integration.clients import quick_client
from tests.integration.life import LANE, PREFIX, ROLE, WORKER, raw
from tests.lanes import chats

from tokenlane.producer import ChatStream
from tokenlane.producer.link.redis.timings import Timings
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.request_report import RequestReport, report

_FULL = replace(LANE, offer=chats(1, abilities={"m1": ("chat", "prefill")}))
_DOWN = ServerCondition(LaneState.DOWN, "The model server refused five requests in a row.")
_LOADING = ServerCondition(LaneState.LOADING, "The model server is loading its model (HTTP 503).")

Prepare = Callable[[Pool, str], Awaitable[object]]
"""Brings a pool, and the request with this id, into the state that a test is about."""


def lane_is(condition: ServerCondition) -> Prepare:
    async def prepare(pool: Pool, _: str) -> None:
        await pool.beats.renew(WORKER, LANE, [], accepts_new_work=True, condition=condition)

    return prepare


async def filled(pool: Pool, request_id: str) -> None:
    """The only slot is taken, and the pace of the queue is known."""
    await life.beat(pool, WORKER, _FULL)
    await life.dispatch(pool, await life.submit(pool, life.envelope(role="another")))
    await raw(pool).hset(f"{PREFIX}drain:{ROLE}", mapping={"at": 1, "mean": 20_000})


async def gone(pool: Pool, _: str) -> None:
    """The lane's process has ended, and its parent process says so."""
    await life.beat(pool)
    await pool.beats.bury(WORKER)


async def left(pool: Pool, _: str) -> None:
    await pool.beats.renew(WORKER, LANE, [], accepts_new_work=False)


async def paused(pool: Pool, _: str) -> None:
    await pool.pause_role(ROLE)


async def drained(pool: Pool, _: str) -> None:
    await life.beat(pool)
    await pool.drain_lane(LANE.lane)


async def pulling(pool: Pool, _: str) -> None:
    steps = {"m7": Progress(step="pulling", done_bytes=10, total_bytes=40)}
    offer = LANE.offer.model_copy(update={"pulls": True, "pulling": steps})
    await life.beat(pool, WORKER, replace(LANE, offer=offer))


async def unrouted(pool: Pool, _: str) -> None:
    """No router lives, though a lane would serve the request."""
    await raw(pool).delete(f"{PREFIX}routers")
    await life.beat(pool)


async def broken(pool: Pool, request_id: str, cause: str, budget_ms: int | None = None) -> None:
    """The request's attempt has ended, and the request waits for the next."""
    await life.beat(pool)
    attempt = await life.dispatch(pool, request_id)
    assert attempt is not None
    assert await pool.requests.start(request_id, attempt, WORKER) is not None
    delayed = await pool.requests.requeue(
        *(request_id, attempt, WORKER, 20_000), cause=cause, longest_delay_ms=budget_ms
    )
    assert delayed == "delayed"


async def failed(pool: Pool, request_id: str) -> None:
    await broken(pool, request_id, "provider_down")


async def over_budget(pool: Pool, request_id: str) -> None:
    """So many requests failed that the next retries are paid for in half a minute."""
    seconds, _ = await raw(pool).time()
    await raw(pool).hset(f"{PREFIX}retries", "paid_at", 1000 * (int(seconds) + 40))
    await broken(pool, request_id, "provider_down", 60_000)


async def unanswered(pool: Pool, request_id: str) -> None:
    await broken(pool, request_id, "no_handover")


async def given(pool: Pool, request_id: str) -> None:
    await life.beat(pool)
    assert await life.dispatch(pool, request_id) is not None


async def continues(pool: Pool, request_id: str) -> None:
    """An answer of model m2 broke off, which the lane cannot continue."""
    await life.beat(pool, WORKER, _FULL)
    attempt = await life.dispatch(pool, request_id)
    assert attempt is not None
    queue = Queue.parse((await raw(pool).hget(f"{PREFIX}request:{request_id}", "queue")).decode())
    needs = queue.needs.model_copy(update={"continues": "m2"})
    assert await pool.requests.start(request_id, attempt, WORKER) is not None
    await pool.requests.requeue(request_id, attempt, WORKER, queue=replace(queue, needs=needs))


async def nothing(pool: Pool, _: str) -> None:
    """A pool without lanes."""


CAUSES: dict[str, tuple[Prepare, str]] = {
    "lanes full": (filled, "a slot on lane1"),
    "lane down": (lane_is(_DOWN), "lane lane1 (down)"),
    "lane loading": (lane_is(_LOADING), "lane lane1 (loading)"),
    "lane gone": (gone, "lane lane1 (gone)"),
    "lane shut down": (left, "lane lane1 (draining)"),
    "lane drained": (drained, "lane lane1 (draining)"),
    "no lane": (nothing, "a lane"),
    "model pulled": (pulling, "a pull of m7 on lane1"),
    "model unknown": (lane_is(UP), "a lane with model m7"),
    "role paused": (paused, "role planner (paused)"),
    "no router": (unrouted, "a router"),
    "attempt failed": (failed, "its next attempt"),
    "retry budget": (over_budget, "its next attempt"),
    "no handover": (unanswered, "its agent"),
    "dispatched": (given, "a worker of lane1"),
    "answer broke off": (continues, "a lane that can continue its answer"),
}


@pytest.mark.parametrize("name", CAUSES)
async def test_agents_read_what_operators_read(name: str, redis_url: str, pool: Pool) -> None:
    """For every cause, `waiting` has the cause, the place and the estimate of `tokenlane requests show`."""
    prepare, brief = CAUSES[name]
    await pool.policies.write(Policy(lease_ms=60_000))
    model = "m7" if name.startswith("model") else None
    async with quick_client(redis_url, Timings(beat_every_s=0.02)) as client:
        async with client.chat("hello", role=ROLE, model=model) as stream:
            await pool.beats.sweep("host/router1")
            await pool.beats.register(WORKER, LANE.lane, life.FACTS)
            await prepare(pool, stream.request_id)
            seen = await agreed(pool, stream)
    assert seen.cause is not None
    assert seen.cause.brief.startswith(brief)
    if name == "lanes full":
        assert "number 1 of 1 in its queue, starts in about 20 s" in str(seen.wait)


async def agreed(pool: Pool, stream: ChatStream) -> RequestReport:
    """The report of the request, as soon as the stream says the same. Both are asked again, since times pass."""
    async with asyncio.timeout(10):
        while True:
            (record,) = await pool.records.read([stream.request_id])
            seen = report(await take_snapshot(pool), record)
            if seen.wait is not None and stream.waiting == str(seen.wait):
                return seen
            await asyncio.sleep(0.01)
