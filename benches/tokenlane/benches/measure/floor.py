"""Measures the floor: the shortest round trip through Redis between two processes, with the same Redis library.

One process appends to a stream and waits on a channel; another process reads the stream and publishes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from tokenlane.routing.support.tasks import background

from .child_process import Tasks

_STREAM = "floor"
_CHANNEL = "floor:answers"


@asynccontextmanager
async def asking(redis: str) -> AsyncIterator[Callable[[], Awaitable[float]]]:
    """Yield a function that makes one round trip and returns its time in milliseconds."""
    async with Redis.from_url(redis) as client, client.pubsub() as answers:
        await answers.subscribe(_CHANNEL)
        await answers.get_message(timeout=None)

        async def floor_ms() -> float:
            begun = time.monotonic_ns()
            await client.xadd(_STREAM, {"payload": b"x" * 200}, maxlen=100)
            await answers.get_message(timeout=None)
            return (time.monotonic_ns() - begun) / 1e6

        yield floor_ms


async def _answer(client: Redis) -> None:
    last: bytes | str = "0"
    while True:
        [[_, entries]] = await client.xread({_STREAM: last}, block=0)
        for entry, fields in entries:
            last = entry
            await client.publish(_CHANNEL, fields[b"payload"])


@asynccontextmanager
async def echo(redis: str) -> AsyncIterator[Tasks]:
    """Run the process that reads the stream and publishes."""
    async with Redis.from_url(redis) as client, background() as tasks:
        task = tasks.create_task(_answer(client))
        yield {}
        task.cancel()
