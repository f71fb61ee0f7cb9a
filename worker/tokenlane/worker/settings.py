"""What `arq tokenlane.worker.settings.WorkerSettings` runs: the lane that the environment describes.

ARQ's own loop runs here, without the overrides of `LaneWorker`: jobs are seen when it polls next, and it rides over a
short outage of Redis by redis-py's retries only, so run it supervised. `tokenlane worker` is the better one.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from arq.connections import RedisSettings as ArqRedisSettings
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenlane.config.load import debugging, find_pool, lane_settings, pool_name
from tokenlane.config.values import LaneSettings, RedisSettings
from tokenlane.routing.dispatcher import run_router
from tokenlane.routing.keys import Keys
from tokenlane.routing.tasks import background

from .job import Lane
from .lane import ARQ_OPTIONS, tag_aborts
from .serve import DRAIN_S, open_lane

_MOST_JOBS = 1000
"""Routers keep the lane's queue within its limit, whatever ARQ would take."""
_RETRIES = 10


def __getattr__(name: str) -> Any:
    # Made when ARQ asks for it, so that importing this module reads no environment.
    if name == "WorkerSettings":
        return _worker_settings()
    raise AttributeError(name)


def _worker_settings() -> type:
    redis, settings = find_pool(), lane_settings()
    arq_redis = _arq_redis(redis)
    keys = Keys(pool_name(), arq_redis.database)
    tag_aborts(keys)

    async def on_startup(context: dict[Any, Any]) -> None:
        opened: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        closing = context["closing"] = asyncio.Event()
        holder = context["holder"] = asyncio.create_task(_hold(settings, redis, keys.pool, opened, closing))
        await asyncio.wait({holder, opened}, return_when=asyncio.FIRST_COMPLETED)
        if holder.done():
            await holder
        holder.add_done_callback(lambda _: None if closing.is_set() else signal.raise_signal(signal.SIGTERM))
        context["lane"] = opened.result()

    async def on_shutdown(context: dict[Any, Any]) -> None:
        context["closing"].set()
        await context["holder"]

    options = {
        **ARQ_OPTIONS,
        "queue_name": keys.lane_queue(settings.name),
        "redis_settings": arq_redis,
        "max_jobs": settings.capacity or _MOST_JOBS,
        "job_completion_wait": int(DRAIN_S),
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
    }
    return type("WorkerSettings", (), options)


async def _hold(
    settings: LaneSettings, redis: RedisSettings, pool: str, opened: asyncio.Future[Lane], closing: asyncio.Event
) -> None:
    """Keep the lane open. A task of its own: what a lane holds must be entered and left in one."""
    transcripts = debugging("llm")
    async with open_lane(settings, redis, pool_name=pool, transcripts=transcripts) as lane, background() as tasks:
        tasks.create_task(run_router(lane.pool, lane.hub, host=socket.gethostname()))
        opened.set_result(lane)
        await closing.wait()


def _arq_redis(redis: RedisSettings) -> ArqRedisSettings:
    found = ArqRedisSettings.from_dsn(redis.url)
    return replace(
        found,
        username=found.username and unquote(found.username),
        password=found.password and unquote(found.password),
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), _RETRIES),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
    )
