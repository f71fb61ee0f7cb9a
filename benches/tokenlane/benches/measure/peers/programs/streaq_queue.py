"""streaq, as its documentation shows it: a task streams the answer, and publishes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from redis.asyncio import Redis
from streaq import Worker

from .channel import open_redis, publish_answer, read_answer
from .environment import MOST_STREAMS, REDIS_URL
from .model_server import open_http
from .rounds import Arrivals, Ask


@dataclass
class Clients:
    """What all tasks share."""

    http: httpx.AsyncClient
    redis: Redis


@asynccontextmanager
async def lifespan() -> AsyncIterator[Clients]:
    """Open the clients of all tasks."""
    async with open_http() as http, open_redis() as redis:
        yield Clients(http, redis)


worker = Worker(redis_url=REDIS_URL, lifespan=lifespan, concurrency=MOST_STREAMS)


@worker.task
async def answer(channel: str, tokens: int) -> None:
    """The task."""
    await publish_answer(worker.context.http, worker.context.redis, channel, tokens)


@asynccontextmanager
async def asking() -> AsyncIterator[Ask]:
    """Yield the asker."""

    async def enqueue(channel: str, tokens: int) -> object:
        return await answer.enqueue(channel, tokens)

    async def ask(tokens: int, arrivals: Arrivals) -> None:
        await read_answer(redis, enqueue, tokens, arrivals)

    async with worker, open_redis() as redis:
        yield ask
