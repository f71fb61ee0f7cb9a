"""Taskiq with the broker that its documentation recommends, over a Redis stream: a task streams and publishes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

from .channel import open_redis, publish_answer, read_answer
from .environment import REDIS_URL
from .model_server import open_http
from .rounds import Arrivals, Ask

broker = RedisStreamBroker(url=REDIS_URL)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: TaskiqState) -> None:
    """Open the clients of all tasks."""
    state.http, state.redis = open_http(), open_redis()


@broker.task
async def answer(channel: str, tokens: int, context: Context = TaskiqDepends()) -> None:  # noqa: B008 - as documented
    """The task."""
    await publish_answer(context.state.http, context.state.redis, channel, tokens)


@asynccontextmanager
async def asking() -> AsyncIterator[Ask]:
    """Yield the asker."""

    async def ask(tokens: int, arrivals: Arrivals) -> None:
        await read_answer(redis, answer.kiq, tokens, arrivals)

    await broker.startup()
    async with open_redis() as redis:
        yield ask
    await broker.shutdown()
