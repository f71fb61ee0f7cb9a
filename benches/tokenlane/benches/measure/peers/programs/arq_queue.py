"""ARQ, as its documentation shows it: a job streams the answer, and publishes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any  # ARQ's type of a job's context

from arq import create_pool
from arq.connections import RedisSettings

from .channel import open_redis, publish_answer, read_answer
from .environment import MOST_STREAMS, REDIS_URL
from .model_server import open_http
from .rounds import Arrivals, Ask


async def answer(context: dict[str, Any], channel: str, tokens: int) -> None:
    """The job."""
    await publish_answer(context["http"], context["redis"], channel, tokens)


async def startup(context: dict[str, Any]) -> None:
    """Open the HTTP client of all jobs."""
    context["http"] = open_http()


class WorkerSettings:
    """The settings of `arq`, the worker."""

    functions = (answer,)
    on_startup = startup
    redis_settings = RedisSettings.from_dsn(REDIS_URL)
    max_jobs = MOST_STREAMS


@asynccontextmanager
async def asking() -> AsyncIterator[Ask]:
    """Yield the asker."""
    pool = await create_pool(RedisSettings.from_dsn(REDIS_URL))

    async def enqueue(channel: str, tokens: int) -> object:
        return await pool.enqueue_job("answer", channel, tokens)

    async def ask(tokens: int, arrivals: Arrivals) -> None:
        await read_answer(redis, enqueue, tokens, arrivals)

    async with pool, open_redis() as redis:
        yield ask
