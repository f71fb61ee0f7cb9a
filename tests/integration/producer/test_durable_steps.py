"""Steps of durable workflows that are tried again, as docs/durable.md tells: the model is asked once."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.clients import quick_client
from tests.integration.stand_in import StandIn

from tokenlane.producer import ChatStream, Client, Duplicate


class Failed(Exception):
    """The step fails."""


async def step(client: Client, fails_after: str) -> str:
    """Ask, or join what was asked before, and fail as soon as this text has come."""
    try:
        stream = client.chat("hi", role="planner", idempotency_key="workflow:1")
        return await read(stream, fails_after)
    except Duplicate as ended:
        return await read(client.attach(ended.request_id), fails_after)


async def read(stream: ChatStream, fails_after: str) -> str:
    """Read an answer to its end, or fail and leave the request as it is."""
    async with stream:
        try:
            async for _ in stream:
                if fails_after and stream.text.startswith(fails_after):
                    raise Failed
        except Failed:
            stream.let_go()
            raise
        return stream.text


@pytest.mark.parametrize("same_process", [True, False])
async def test_a_step_that_fails_in_mid_answer(redis_url: str, worker: StandIn, same_process: bool) -> None:
    """The next try, in this process or another, reads the answer from its beginning; and one after its end too."""
    async with quick_client(redis_url, agent="a") as first, quick_client(redis_url, agent="a") as second:
        failing = asyncio.create_task(step(first, "two, "))
        run = await worker.next_run()
        await run.say("two, ")
        with pytest.raises(Failed):
            await failing
        again = asyncio.create_task(step(first if same_process else second, ""))
        await run.say("three")
        await run.complete()
        assert await again == "two, three"
        assert await step(second, "") == "two, three"
        assert len(worker.runs) == 1
        assert not run.cancelled.is_set()
