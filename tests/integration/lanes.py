"""Lanes that run inside the test's process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tokenlane.config.settings.values import CacheSettings, LaneSettings, RedisSettings
from tokenlane.routing.hooks.functions import NO_HOOKS, Hooks
from tokenlane.routing.router import run_router
from tokenlane.routing.support.tasks import background
from tokenlane.worker.assembly import open_fallback, open_lane
from tokenlane.worker.hooks.prompt_plugins import PromptPlugins
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.timings import TIMINGS, Timings
from tokenlane.worker.providers import LlmProvider
from tokenlane.worker.run_and_drain import drain, start_workers


@asynccontextmanager
async def lane_of(
    redis_url: str,
    settings: LaneSettings,
    timings: Timings = TIMINGS,
    *,
    provider: LlmProvider | None = None,
    cache: CacheSettings | None = None,
    plugins: PromptPlugins | None = None,
    fallback: bool = False,
    hooks: Hooks = NO_HOOKS,
) -> AsyncIterator[Lane]:
    """Serve a lane and run a router for the duration of the block.

    Args:
        fallback: serve the fallback lane too.
    """
    redis = RedisSettings(redis_url)
    opening = open_lane(settings, redis, provider=provider, cache=cache, plugins=plugins, timings=timings, hooks=hooks)
    async with AsyncExitStack() as stack:
        lane = await stack.enter_async_context(opening)
        fallback_lane = await stack.enter_async_context(open_fallback(lane)) if fallback else None
        tasks = await stack.enter_async_context(background())
        lanes = [lane] if fallback_lane is None else [lane, fallback_lane]
        workers = [worker for each in lanes for worker in await start_workers(each, tasks)]
        tasks.create_task(run_router(lane.pool, lane.hub, host="here"))
        try:
            yield lane
            await drain(lane, workers, 0)
        finally:
            await asyncio.gather(*(worker.abandon() for worker in workers))
