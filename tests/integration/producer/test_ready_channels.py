"""Channels that are subscribed to ahead of their requests."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from tests.integration.clients import link_of
from tests.integration.life import raw
from tests.integration.stand_in import StandIn
from tests.waiting import until

from tokenlane.producer import BadRequest, Client
from tokenlane.routing.store.pool import Pool


async def subscribed(pool: Pool, request_id: str) -> bool:
    """Whether anybody hears the request's channel."""
    channel = pool.keys.deltas(request_id)
    return dict(await raw(pool).pubsub_numsub(channel)) == {channel.encode(): 1}


async def ready(client: Client, count: int) -> None:
    """Wait until that many ids are ready."""
    ready_channels = link_of(client).ready_channels
    await until(lambda: len(ready_channels._ready) >= count)


@pytest.fixture
def swept() -> Iterator[None]:
    """Only what the test makes is garbage to be looked for: looking through all that was imported takes its time."""
    gc.freeze()
    yield
    gc.unfreeze()


async def test_a_request_finds_its_channel_subscribed(client: Client, worker: StandIn, pool: Pool) -> None:
    """Once a client is up, the channel of its next request is heard before the request is made."""
    await ready(client, 1)
    stream = client.chat("hello", role="planner")
    assert await subscribed(pool, stream.request_id)
    async with stream:
        run = await worker.next_run()
        await run.say("hi")
        await run.complete()
        assert (await stream.answer()).text == "hi"


async def test_ids_are_made_ready_again(client: Client, worker: StandIn) -> None:
    """More requests than are ready at once are all answered, and the next ones find their channels ready again."""
    await ready(client, 1)
    asked = [asyncio.create_task(client.complete("hello", role="planner")) for _ in range(40)]
    for _ in asked:
        await (await worker.next_run()).complete()
    await asyncio.gather(*asked)
    await ready(client, 9)


@pytest.mark.usefixtures("swept")
async def test_an_id_of_a_stream_that_was_never_entered_is_used_again(client: Client) -> None:
    """Streams that are made and dropped take no channels with them."""
    await ready(client, 16)
    for _ in range(40):
        client.chat("hello", role="planner")
        gc.collect()
    ready_channels = link_of(client).ready_channels
    assert (len(ready_channels._ready), ready_channels._taken) == (16, set())


async def test_unsubscribed_when_the_answer_has_ended(client: Client, worker: StandIn, pool: Pool) -> None:
    """A channel that was subscribed to ahead is left like any other."""
    await ready(client, 1)
    async with client.chat("hello", role="planner") as stream:
        await (await worker.next_run()).complete()
        await stream.answer()
    async with asyncio.timeout(10):
        while await subscribed(pool, stream.request_id):
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("swept")
async def test_an_id_of_a_request_that_was_not_valid_is_used_again(client: Client) -> None:
    """Requests that are refused before they are sent take no channels with them."""
    await ready(client, 16)
    for _ in range(40):
        with pytest.raises(BadRequest):
            await client.complete([], role="planner")
        gc.collect()
    ready_channels = link_of(client).ready_channels
    assert (len(ready_channels._ready), ready_channels._taken) == (16, set())
