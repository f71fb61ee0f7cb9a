from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration import life
from tests.integration.life import raw
from tests.waiting import until
from tests.workshop import Asker, FakeProvider, ask, serving

from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.messages import Replay
from tokenlane.routing.router import run_router
from tokenlane.routing.store.hub import Hub, open_hub
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.support.tasks import background
from tokenlane.worker.lane.arq_worker import LaneWorker
from tokenlane.worker.lane.lane import Lane

OUTAGE_S = 3.0
SLOTS = 2  # of the lane that `serving` serves


@pytest.fixture
def durable(tmp_path: Path) -> EmbeddedServer:
    """A server that holds after a restart what it held before."""
    return EmbeddedServer(tmp_path / "r", keeps=True)


@asynccontextmanager
async def routed(url: str, provider: FakeProvider) -> AsyncIterator[tuple[Pool, Hub, Lane, LaneWorker]]:
    """A worker of one lane with a router, and an agent's connection."""
    async with connect(url, keys=KeyRing()) as pool, open_hub(pool) as hub, serving(url, provider) as (lane, worker):
        async with background() as tasks:
            tasks.create_task(run_router(lane.pool, lane.hub, host="here"))
            tasks.create_task(_beat(pool))
            yield pool, hub, lane, worker


async def _beat(pool: Pool) -> None:
    """The client's beat: it stays alive."""
    while True:
        try:
            await pool.beats.check(life.CLIENT)
        except LlmError:
            pass
        await asyncio.sleep(0.5)


async def catch_up(pool: Pool, asker: Asker, lane: Lane) -> None:
    """Ask the worker for what the agent lacks until the answer is whole, as a client does after an outage."""
    async with asyncio.timeout(20):
        while asker.ending is None or asker.gap:
            await asyncio.sleep(0.1)
            question = Replay(id=asker.id, attempt=asker.attempt, after=len(asker.text))
            try:
                await pool.publish([(pool.keys.control(lane.worker), question.to_wire())])
            except LlmError:
                pass


async def all_slots_work(pool: Pool, hub: Hub, provider: FakeProvider, worker: LaneWorker) -> None:
    """All slots of the worker are free, and can be used at once."""
    await until(lambda: not worker.tasks)
    provider.hold_after, provider.holding = 0, 0
    provider.go.clear()
    askers = [await ask(pool, hub) for _ in range(SLOTS)]
    await until(lambda: provider.holding == SLOTS)
    provider.go.set()
    for asker in askers:
        await asker.completed("".join(provider.pieces))


async def test_redis_away_in_the_middle_of_answers(durable: EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    """Answers that run go on while Redis is away and are whole afterwards, begun once; every slot is free again."""
    caplog.set_level(logging.WARNING, "tokenlane.worker")
    pieces = [f"{number} " for number in range(20)]
    provider = FakeProvider(pieces, hold_after=2)
    async with durable, routed(durable.url, provider) as (pool, hub, lane, worker):
        askers = [await ask(pool, hub) for _ in range(2)]
        queued = await ask(pool, hub)
        await until(lambda: provider.holding == 2 and all(len(asker.text) == 2 for asker in askers))
        await durable.stop()
        provider.go.set()
        await until(lambda: provider.running == 0)
        await asyncio.sleep(OUTAGE_S)
        await durable.start()
        for asker in askers:
            await catch_up(pool, asker, lane)
            await asker.completed("".join(pieces))
        await queued.completed("".join(pieces))
        assert len(provider.requests) == 3
        await all_slots_work(pool, hub, provider, worker)
        await life.audit(raw(pool))
    assert len([record for record in caplog.records if record.name == "tokenlane.worker.lane.heartbeat"]) <= 1


async def test_redis_away_with_nothing_running(durable: EmbeddedServer) -> None:
    """An idle worker rides over an outage and accepts new work afterwards."""
    provider = FakeProvider()
    async with durable, routed(durable.url, provider) as (pool, hub, _, worker):
        await durable.stop()
        await asyncio.sleep(OUTAGE_S)
        await durable.start()
        await all_slots_work(pool, hub, provider, worker)


async def test_redis_forgets_everything(tmp_path: Path) -> None:
    """A server that comes back empty is told anew of what runs; the answers are whole and every slot is free."""
    provider = FakeProvider(hold_after=1)
    server = EmbeddedServer(tmp_path / "r")
    async with server, routed(server.url, provider) as (pool, hub, lane, worker):
        asker = await ask(pool, hub)
        await until(lambda: provider.holding == 1 and len(asker.text) == 1)
        await server.stop()
        await server.start()
        async with asyncio.timeout(20):
            while (await pool.beats.check(life.CLIENT, [asker.id])).statuses[0].state != "running":
                await asyncio.sleep(0.02)
        provider.go.set()
        await catch_up(pool, asker, lane)
        await asker.completed()
        assert len(provider.requests) == 1
        await all_slots_work(pool, hub, provider, worker)


async def test_redis_full_and_freed_again(redis_url: str) -> None:
    """Answers end while memory is full; what could not be taken in is once there is room, and every slot is free."""
    provider = FakeProvider(hold_after=1)
    async with routed(redis_url, provider) as (pool, hub, _, worker):
        askers = [await ask(pool, hub) for _ in range(3)]
        await until(lambda: provider.holding == 2)
        await life.raw(pool).config_set("maxmemory", 1)
        try:
            provider.go.set()
            for asker in askers[:2]:
                await asker.completed()
            await asyncio.sleep(OUTAGE_S)
        finally:
            await life.raw(pool).config_set("maxmemory", 0)
        await askers[2].completed()
        await all_slots_work(pool, hub, provider, worker)
        await life.audit(raw(pool))
