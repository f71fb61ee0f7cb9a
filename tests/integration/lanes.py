"""Lanes at work inside a test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.router import run_router
from tokenlane.routing.support.tasks import background
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.lane.timings import TIMINGS, Timings
from tokenlane.worker.run_and_drain import drain, start_workers


@asynccontextmanager
async def lane_of(redis_url: str, settings: LaneSettings, timings: Timings = TIMINGS) -> AsyncIterator[None]:
    """A lane at work, with a router."""
    async with (
        open_lane(settings, RedisSettings(redis_url), timings=timings) as lane,
        background() as tasks,
    ):
        workers = await start_workers(lane, tasks)
        tasks.create_task(run_router(lane.pool, lane.hub, host="here"))
        try:
            yield
            await drain(lane, workers, 0)
        finally:
            await asyncio.gather(*(worker.abandon() for worker in workers))
