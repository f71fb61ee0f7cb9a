"""Serves the lane that the environment describes, for the command `arq tokenlane.worker.settings.WorkerSettings`.

ARQ's own loop never starts: its start-up hook runs until the worker ends. An error ends the command as it would end
`tokenlane worker`: with one message, and exit code 2 for wrong settings or 1 for other errors.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from tokenlane.config.exit_codes import UserError
from tokenlane.config.host.stop_signals import cancelled_by, stop_event
from tokenlane.config.settings.environment import debugging
from tokenlane.config.settings.load import (
    cache_settings,
    find_pool,
    hook_settings,
    lane_settings,
    plugin_settings,
    pool_name,
    telemetry_settings,
)
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.commands.pool_session import error_for_user
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.hooks.functions import Hooks
from tokenlane.routing.hooks.load import load_hooks
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import connect
from tokenlane.routing.store.server import Server

from .assembly import open_lane
from .builtin.server import with_builtin_server
from .hooks.prompt_plugins import open_plugins
from .lane.arq_worker import NO_FUNCTIONS
from .lane.lane import Lane
from .metrics_server import WorkerHealth, serving_metrics
from .run_and_drain import run_worker


def __getattr__(name: str) -> Any:
    # Created when ARQ asks for it, so that importing this module does not read the environment.
    if name == "WorkerSettings":
        with _exiting_on_error():
            return _worker_settings()
    raise AttributeError(name)


@contextmanager
def _exiting_on_error() -> Iterator[None]:
    try:
        yield
    except (UserError, LlmError) as error:
        ending = error_for_user(error) if isinstance(error, LlmError) else error
        sys.stderr.write(f"tokenlane: {ending}\n")
        raise SystemExit(ending.exit_code) from None


def _worker_settings() -> type:
    redis, settings, pool, hooks = find_pool(), lane_settings(), pool_name(), load_hooks(hook_settings())
    server = Server.of(redis.url)
    asyncio.run(_check_pool(server, redis, pool))

    async def serve(_: dict[Any, Any]) -> None:
        with _exiting_on_error():
            await _serve(settings, redis, pool, hooks)
        raise asyncio.CancelledError  # ends the arq command in the same way as its own stop signal

    options = {
        "functions": NO_FUNCTIONS,
        "queue_name": Keys(pool, server.database).lane_queue(settings.name),  # where `arq --check` looks
        "redis_settings": server.arq(),
        "handle_signals": False,
        "on_startup": serve,
    }
    if server.sentinels is not None:  # ARQ cannot send a password to Sentinels
        options["redis_pool"] = Server.of(redis.url).arq_client()
    return type("WorkerSettings", (), options)


async def _check_pool(server: Server, redis: RedisSettings, pool: str) -> None:
    async with connect(server, pool, keys=redis.keys, unseals=True):
        pass


async def _serve(settings: LaneSettings, redis: RedisSettings, pool: str, hooks: Hooks) -> None:
    async with AsyncExitStack() as stack:
        stopping = stack.enter_context(stop_event())
        async with cancelled_by(stopping):
            settings = await stack.enter_async_context(with_builtin_server(settings))
        if not stopping.is_set():
            cache, transcripts = cache_settings(), debugging("llm")
            tokens, health = telemetry_settings().tokens, WorkerHealth()
            lane = open_lane(
                settings,
                redis,
                pool_name=pool,
                cache=cache,
                transcripts=transcripts,
                token_spans=tokens,
                hooks=hooks,
                plugins=open_plugins(plugin_settings()),
                internal_errors=health.internal_errors,
            )

            async def ready(opened: Lane) -> None:
                health.lane = opened

            async with serving_metrics(health, settings.metrics, pool):
                await run_worker(lane, fallback=True, on_ready=ready, stopping=stopping)
