"""A worker that runs in this process, from its start to its end."""

from __future__ import annotations

import asyncio
import gc

from tests.workshop import FakeProvider

from tokenlane.config.exit_codes import OK
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.run_and_drain import run_worker


async def test_collections_of_a_running_worker_skip_the_objects_of_its_start(redis_url: str) -> None:
    skipped, stopping = list[int](), asyncio.Event()

    async def on_ready(_: object) -> None:
        skipped.append(gc.get_freeze_count())
        stopping.set()

    lane = open_lane(LaneSettings("lane1", "fake"), RedisSettings(redis_url), provider=FakeProvider())
    assert await run_worker(lane, on_ready=on_ready, stopping=stopping) == OK
    assert skipped[0] > 10_000
    assert gc.get_freeze_count() == 0
