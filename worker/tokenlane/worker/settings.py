"""What `arq tokenlane.worker.settings.WorkerSettings` runs: the lane that the environment describes.

ARQ's own loop runs here, without the overrides of `LaneWorker`: jobs are seen when it polls next, and it rides over a
short outage of Redis by redis-py's retries only, so run it supervised. `tokenlane worker` is the better one.

What cannot be served ends the command as it does `tokenlane worker`: one message, exit code 2 where something is set
wrongly, else 1. SIGTERM, SIGINT and SIGHUP are handled here, since ARQ's own handlers leave the lane open while it
drains.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import arq.worker
from arq.connections import RedisSettings as ArqRedisSettings
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tokenlane.config.exit_codes import FAILED, USAGE, UserError
from tokenlane.config.host.stop_signals import stop_signals
from tokenlane.config.settings.environment import debugging
from tokenlane.config.settings.load import cache_settings, find_pool, lane_settings, pool_name
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.contract.errors import BadRequest, LaneConflict, LlmError, PoolKeyMismatch, PoolUnavailable
from tokenlane.routing.router import run_router
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import connect
from tokenlane.routing.store.redis_py import open_redis
from tokenlane.routing.support.tasks import background

from .assembly import CLOSE_S, DRAIN_S, drain, idle, open_fallback, open_lane, start_workers
from .builtin.server import with_own_server
from .lane.arq_worker import ARQ_OPTIONS, arq_redis, name_keys
from .lane.lane import Lane

_MOST_JOBS = 1000
"""Routers keep the lane's queue within its limit, whatever ARQ would take."""
_RETRIES = 10
_JOB = arq.worker.Worker.run_job.__qualname__


def __getattr__(name: str) -> Any:
    # Made when ARQ asks for it, so that importing this module reads no environment.
    if name == "WorkerSettings":
        with _ends_with_a_message():
            return _worker_settings()
    raise AttributeError(name)


@contextmanager
def _ends_with_a_message() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        code, message = error.exit_code, str(error)
    except (PoolUnavailable, PoolKeyMismatch, LaneConflict, BadRequest) as error:
        code, message = USAGE, str(error)
    except LlmError as error:
        code, message = FAILED, str(error)
    else:
        return
    sys.stderr.write(f"tokenlane: {message}\n")
    raise SystemExit(code)


def _worker_settings() -> type:
    redis, settings = find_pool(), lane_settings()
    asyncio.run(_look_at(redis))
    arq_redis = _arq_redis(redis)
    keys = Keys(pool_name(), arq_redis.database)
    name_keys(keys)

    async def on_startup(context: dict[Any, Any]) -> None:
        main = asyncio.current_task()  # ends ARQ's loop when it is cancelled
        assert main is not None
        opened: asyncio.Future[Lane] = asyncio.get_running_loop().create_future()
        closing = asyncio.Event()
        holder = asyncio.create_task(_hold(settings, redis, keys.pool, opened, closing))
        _on_signals(main.cancel)
        try:
            awaited: set[asyncio.Future[Any]] = {holder, opened}
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            holder.cancel()
            await asyncio.wait({holder})
            raise
        if not opened.done():
            with _ends_with_a_message():
                await holder
        _on_signals(closing.set)
        holder.add_done_callback(lambda _: main.cancel())
        context |= {"lane": opened.result(), "closing": closing, "holder": holder}

    async def on_shutdown(context: dict[Any, Any]) -> None:
        if "holder" in context:
            context["closing"].set()
            await context["holder"]

    options = {
        **ARQ_OPTIONS,
        "queue_name": keys.lane_queue(settings.name),
        "redis_settings": arq_redis,
        "max_jobs": settings.capacity or _MOST_JOBS,
        "handle_signals": False,
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
    }
    return type("WorkerSettings", (), options)


async def _look_at(redis: RedisSettings) -> None:
    async with connect(redis.url, keys=redis.keys):
        pass


async def _hold(
    settings: LaneSettings, redis: RedisSettings, pool: str, opened: asyncio.Future[Lane], closing: asyncio.Event
) -> None:
    """Keep the lane open, then drain it. A task of its own: what a lane holds must be entered and left in one."""
    transcripts = debugging("llm")
    async with (
        with_own_server(settings) as served,
        open_lane(served, redis, pool_name=pool, cache=cache_settings(), transcripts=transcripts) as lane,
        open_redis(redis.url) as client,
        open_fallback(lane) as fallback,
        background() as tasks,
    ):
        # ARQ's worker has one queue, that of chats.
        arq = arq_redis(client.connection_pool)
        beside = await start_workers(lane, arq, ("embed", "command"), tasks)
        texts = await start_workers(fallback, arq, ("embed",), tasks) if fallback else []
        tasks.create_task(run_router(lane.pool, lane.hub, host=socket.gethostname()))
        opened.set_result(lane)
        try:
            await closing.wait()
            await lane.lease.withdraw()
            lane.runs.closing = True  # ARQ goes on looking: what it still takes is given back
            if fallback:
                await drain(fallback, texts, 0)
            await asyncio.gather(_jobs_ended(DRAIN_S), idle(beside, DRAIN_S))
            lane.runs.close()
            await _jobs_ended(CLOSE_S)
        finally:
            await asyncio.gather(*(worker.abandon() for worker in (*beside, *texts)))


async def _jobs_ended(within_s: float) -> None:
    jobs = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == _JOB]
    if jobs:
        await asyncio.wait(jobs, timeout=within_s)


def _on_signals(then: Callable[[], object]) -> None:
    with suppress(NotImplementedError):  # Windows
        for number in stop_signals():
            asyncio.get_running_loop().add_signal_handler(number, then)


def _arq_redis(redis: RedisSettings) -> ArqRedisSettings:
    found = ArqRedisSettings.from_dsn(redis.url)
    return replace(
        found,
        username=found.username and unquote(found.username),
        password=found.password and unquote(found.password),
        unix_socket_path=found.unix_socket_path and unquote(found.unix_socket_path),
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.02), _RETRIES),
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
    )
