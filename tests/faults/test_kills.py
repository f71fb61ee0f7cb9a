"""One thing goes wrong at a time, at a moment that is known."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.farm import Server
from tests.workshop import FakeProvider, until

from tokenlane.config.values import LaneSettings, RedisSettings
from tokenlane.routing.pool import open_redis
from tokenlane.routing.tasks import background
from tokenlane.worker.lane import LaneWorker, arq_redis
from tokenlane.worker.serve import open_lane


async def test_redis_dies_as_a_worker_starts(tmp_path: Path) -> None:
    """A worker whose lane is open outlives a server that dies before it first looks at its queue."""
    lane_settings = LaneSettings("gpu0", "fake", endpoint="http://gpu0")
    async with (
        Server(tmp_path) as server,
        open_lane(lane_settings, RedisSettings(server.url), provider=FakeProvider()) as lane,
        open_redis(server.url, retries=0) as client,
        background() as tasks,
    ):
        await server.kill()
        worker = LaneWorker(lane, arq_redis(client.connection_pool))
        task = tasks.create_task(worker.main())
        await until(lambda: worker._failing or task.done())
        assert not task.done()
        await server.start()
        await until(lambda: not worker._failing)
        await asyncio.sleep(0)
        assert not task.done()
