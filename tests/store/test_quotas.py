"""Quotas: limits of requests at once that requests carry, in a pool that many clients share."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.integration import life
from tests.integration.life import PREFIX, audit, raw

from tokenlane.producer import Client
from tokenlane.routing.contract.envelope import Envelope, Quota
from tokenlane.routing.contract.errors import QueueFull
from tokenlane.routing.store.pool import Pool

TWO = Quota(name="ci", in_flight=2)
MEMBERS = f"{PREFIX}agent:ci:quota"


def envelope(role: str = life.ROLE, agent: str = life.AGENT, client: str = life.CLIENT) -> Envelope:
    return life.envelope(role=role, agent=agent, client=client, quota=TWO)


async def submit(pool: Pool) -> str:
    return await life.submit(pool, envelope())


async def is_full(pool: Pool) -> bool:
    """Whether the pool refuses one more; what it accepts is cancelled."""
    try:
        await pool.requests.cancel(await submit(pool))
    except QueueFull:
        return True
    return False


async def test_a_quota_counts_the_requests_of_all_its_agents(pool: Pool) -> None:
    """In any role, from any client. Requests without it, and those of another quota, are not its business."""
    await life.submit(pool, envelope(agent="one", client="client1"))
    await life.submit(pool, envelope(agent="two", client="client2", role="coder"))
    with pytest.raises(QueueFull, match="'ci'") as refused:
        await life.submit(pool, envelope(agent="three", client="client3"))
    assert refused.value.retry_after_s == pytest.approx(1.0)
    await life.submit(pool, life.envelope(agent="one"))
    await life.submit(pool, life.envelope(agent="one", quota=Quota(name="other", in_flight=1)))
    await life.submit(pool, life.envelope(agent="ci"))  # an agent of the same name
    assert len(await audit(raw(pool))) == 5


async def test_two_clients_at_once_get_what_the_quota_allows(redis_url: str) -> None:
    """Of many requests that two clients send at the same moment, as many as it allows are accepted."""

    async with Client(redis_url, agent="one") as one, Client(redis_url, agent="two") as two, AsyncExitStack() as open_:
        streams = [client.chat("hi", role="planner", quota=TWO) for client in (one, two) * 8]
        entered = await asyncio.gather(*map(open_.enter_async_context, streams), return_exceptions=True)
        assert [type(outcome) for outcome in entered if outcome not in streams] == [QueueFull] * 14


@pytest.mark.parametrize("state", ["waiting", "dispatched", "delayed", "running"])
async def test_a_request_counts_as_long_as_it_lives(pool: Pool, state: str) -> None:
    """In each state; once it has ended, its place is free."""
    await submit(pool)
    await life.open_lane(pool)
    request_id = await submit(pool)
    asked = life.Asked(request_id)
    if state == "dispatched":
        asked = await life.dispatched(pool, request_id)
    elif state in ("delayed", "running"):
        asked = await life.running(pool, request_id)
    if state == "delayed":
        await pool.requests.requeue(asked.id, asked.attempt, life.WORKER, due_ms=60_000)
    assert await is_full(pool)
    if state == "running":
        assert await life.finish(pool, asked)
    else:
        await pool.requests.cancel(asked.id)
    assert not await is_full(pool)
    await audit(raw(pool))


async def test_a_request_that_is_sent_twice_counts_once(pool: Pool) -> None:
    """The second call answers as the first, even if the quota is used up meanwhile."""
    first, second = envelope(), envelope()
    for of in (first, second, first, second):
        await life.submit(pool, of)
    assert await raw(pool).scard(MEMBERS) == 2


async def test_requests_that_an_older_worker_ended_make_room(pool: Pool) -> None:
    """Its scripts know no quotas. The first request that finds no room is refused, and the next one is accepted."""
    left = [await submit(pool) for _ in range(2)]
    for request_id in left:
        await pool.requests.cancel(request_id)
        await raw(pool).sadd(MEMBERS, request_id)
    await raw(pool).delete(f"{PREFIX}request:{left[0]}")  # an hour later
    assert [await is_full(pool), await is_full(pool)] == [True, False]
    await audit(raw(pool))


async def test_a_smaller_quota_holds_at_once(pool: Pool) -> None:
    """The newest request says how many there may be; those that live go on."""
    for _ in range(2):
        await submit(pool)
    with pytest.raises(QueueFull):
        await life.submit(pool, life.envelope(quota=Quota(name="ci", in_flight=1)))
    await life.submit(pool, life.envelope(quota=Quota(name="ci", in_flight=3)))
