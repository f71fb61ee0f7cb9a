"""Connections to Redis under an agent: silences, resets, and whatever else a transport and a URL may bring.

`make test-redis` runs this with redis-py 5 and the newest, on asyncio and on uvloop.
"""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.integration.clients import quick_client
from tests.integration.resetting import resetting
from tests.integration.stand_in import StandIn
from tests.waiting import until

from tokenlane.producer.link.redis.timings import Timings as LinkTimings
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.server import Server, Timings

SILENCE_S = 6.5
"""Longer than every time-out that redis-py has by itself, and than the hub waits for an answer to its PINGs here."""

OPTIONS = [
    "",
    "protocol=2",
    "protocol=3",
    "socket_timeout=1",
    "decode_responses=True",
    "decode_responses=True&protocol=3",
    "health_check_interval=1",
    "retry_on_timeout=True",
    "max_connections=3",
    "timeout=1",
    "encoding=utf-16",
    "client_name=agent",
    "socket_connect_timeout=2",
]


async def test_silences_and_options(redis_url: str, worker: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the URL says, a client that hears nothing for long goes on, on the connections that it has, and what it
    asked before and after is answered."""

    async def quiet(option: str) -> None:
        url = redis_url + ("&" if "?" in redis_url else "?") + option if option else redis_url
        client = quick_client(Server.of(url, Timings(silence_s=0.5)), LinkTimings(), agent="agent1")
        async with client, client.chat("first", role="planner") as stream:
            run = await worker.next_run()
            await asyncio.sleep(SILENCE_S)
            await run.complete("é")
            assert (await stream.answer()).text != ""
            asked = asyncio.create_task(client.complete("second", role="planner"))
            await (await worker.next_run()).complete("more")
            assert (await asked).text != ""
            assert client.internal_errors == 0

    with caplog.at_level(logging.INFO, "tokenlane.routing"):
        async with asyncio.timeout(50), asyncio.TaskGroup() as tasks:
            for option in OPTIONS:
                tasks.create_task(quiet(option))
    assert [record.getMessage() for record in caplog.records] == []


async def test_idle_connections_that_are_reset(redis_url: str, worker: StandIn) -> None:
    """Calls and streams ride over resets of all connections, again and again."""
    async with resetting(redis_url) as proxy, quick_client(proxy.url, agent="agent1") as client:
        for turn in range(5):
            asked = asyncio.create_task(client.complete("question", role="planner"))
            run = await worker.next_run()
            proxy.reset()
            await asyncio.sleep(0.02 * (turn % 2))
            await run.complete("answer")
            async with asyncio.timeout(20):
                assert (await asked).text == "answer"
        assert proxy.resets >= 10
        assert client.internal_errors == 0


async def test_calls_after_a_reset(redis_url: str) -> None:
    """Many calls at once are answered right after a reset of all connections."""
    async with resetting(redis_url) as proxy, connect(proxy.url) as pool:
        for _ in range(5):
            await asyncio.gather(*(pool.survey() for _ in range(40)))
            proxy.reset()


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AttributeError, TypeError, OSError, EOFError, SystemError])
@pytest.mark.parametrize("where", ["StreamWriter.writelines", "StreamWriter.drain", "StreamReader._wait_for_data"])
async def test_whatever_a_transport_raises(
    error: type[Exception], where: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is tried again on a new connection, and the hub connects anew and tells its handlers of the gap."""
    owner, name = where.split(".")
    kind = getattr(asyncio, owner)
    right, failing = getattr(kind, name), [2]
    gaps: list[None] = []

    def broken(self: object, *args: object) -> object:
        if failing[0]:
            failing[0] -= 1
            raise error("the transport is closed")
        return right(self, *args)

    async with open_hub(pool) as hub:
        await hub.subscribe("one", lambda _: None, lambda: gaps.append(None))
        await pool.survey()
        monkeypatch.setattr(kind, name, broken)
        await pool.survey()
        assert failing == [0]
        failing[0] = 2
        await pool.publish([("one", b"x")])
        await pool.survey()
        await until(lambda: failing[0] == 0)
        async with asyncio.timeout(20):
            await hub.subscribe("two", lambda _: None)
    assert pool.internal_errors.count == 0
