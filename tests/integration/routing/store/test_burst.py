"""More asked for at once than can be sent while a time-out runs."""

from __future__ import annotations

import asyncio
import logging
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.integration.clients import quick_client
from tests.integration.producer.test_client_faults import Restartable

from tokenlane.producer import PoolUnavailable
from tokenlane.producer.link.redis.timings import Timings
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.beats import Beats
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.request_life import Requests
from tokenlane.routing.store.server import Server
from tokenlane.routing.store.server import Timings as ServerTimings
from tokenlane.routing.store.server.redis_py import Connections
from tokenlane.routing.watch.parse_snapshot import take_snapshot

BURST = 320
ROUND_TRIP_S = 0.005
TIMEOUT_S = 0.5
TIMINGS = ServerTimings(command_s=TIMEOUT_S)


def narrow(url: str, timings: ServerTimings = TIMINGS) -> Server:
    """Two commands in flight, and a time-out that is over long before a burst has been sent."""
    return replace(Server.of(url, timings), max_in_flight=2)


@pytest.fixture(autouse=True)
def distant(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command takes its time."""
    exchange = Connections.exchange

    async def slow(*args: Any) -> Any:
        await asyncio.sleep(ROUND_TRIP_S)
        return await exchange(*args)

    monkeypatch.setattr(Connections, "exchange", slow)


async def test_a_burst_is_accepted(
    redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it, though that takes longer than the time-out of a command; the client beats meanwhile, and no connection
    is given up."""
    assert BURST / 2 * ROUND_TRIP_S > 1.5 * TIMEOUT_S
    await pool.policies.write(Policy(depth=10_000, in_flight=10_000, patience_ms=60_000))
    accepted, beats = 0, list[int]()
    submit, check = Requests.submit, Beats.check

    async def submitting(*args: Any, **options: Any) -> Any:
        nonlocal accepted
        answer = await submit(*args, **options)
        accepted += 1
        return answer

    async def checking(*args: Any, **options: Any) -> Any:
        answer = await check(*args, **options)
        beats.append(accepted)
        return answer

    monkeypatch.setattr(Requests, "submit", submitting)
    monkeypatch.setattr(Beats, "check", checking)
    with caplog.at_level(logging.WARNING, "tokenlane"):
        async with quick_client(narrow(redis_url), Timings(beat_every_s=0.05), agent="agent1") as client:
            seen = asyncio.Event()

            async def stream() -> None:
                async with client.chat("hi", role="planner"):
                    await seen.wait()

            async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
                for _ in range(BURST):
                    tasks.create_task(stream())
                while accepted < BURST:
                    await asyncio.sleep(0.02)
                (queue,) = (await take_snapshot(pool)).queues
                seen.set()
            assert queue.waiting == BURST
            assert len([count for count in beats if 0 < count < BURST]) >= 2
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.kills
async def test_a_burst_into_silence_ends_as_one(tmp_path: Path) -> None:
    """When the server stops answering, all that wait for their turn are told with the first, not one after another."""
    where = narrow(f"unix://{tmp_path}/redis.sock", replace(TIMINGS, silence_s=0.1, pubsub_connect_s=0.2))
    client = quick_client(where, Timings(server_patience_s=1.0))
    async with Restartable(tmp_path) as server, connect(where) as pool, client:
        server.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(15):
                calls = [asyncio.create_task(pool.survey()) for _ in range(BURST)]
                asked = [asyncio.create_task(client.complete("hi", role="planner")) for _ in range(BURST)]
                for ended in await asyncio.gather(*calls, *asked, return_exceptions=True):
                    assert isinstance(ended, PoolUnavailable), ended
        finally:
            server.signal(signal.SIGCONT)
        await pool.survey()
