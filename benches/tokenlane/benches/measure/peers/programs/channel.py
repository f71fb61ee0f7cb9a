"""Moves an answer through a pub/sub channel of Redis: a task publishes each token, and the asker reads the channel."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable, Callable

import httpx
from redis.asyncio import Redis

from .environment import REDIS_URL
from .model_server import answer
from .rounds import Arrivals

END = json.dumps({"end": True})


def open_redis() -> Redis:
    """Open the client of the Redis server."""
    client: Redis = Redis.from_url(REDIS_URL)
    return client


def token_message(text: str) -> str:
    """Return the message with a token."""
    return json.dumps({"text": text})


async def publish_answer(http: httpx.AsyncClient, redis: Redis, channel: str, tokens: int) -> None:
    """Ask the model server, and publish each token and the end of the answer."""
    async for text in answer(http, tokens):
        await redis.publish(channel, token_message(text))
    await redis.publish(channel, END)


async def read_answer(
    redis: Redis, enqueue: Callable[[str, int], Awaitable[object]], tokens: int, arrivals: Arrivals
) -> None:
    """Subscribe to a new channel, enqueue the task, and read the channel until the answer ends."""
    channel = f"answer:{uuid.uuid4().hex}"
    async with redis.pubsub() as answers:
        await answers.subscribe(channel)
        await enqueue(channel, tokens)
        async for message in answers.listen():
            if message["type"] != "message":
                continue
            event = json.loads(message["data"])
            if "end" in event:
                return
            arrivals.append((time.monotonic_ns(), event["text"]))
