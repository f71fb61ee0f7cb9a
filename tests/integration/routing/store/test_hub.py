"""The hub over connections that break."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.life import raw
from tests.integration.producer.test_client_faults import Restartable, kill_subscribers
from tests.waiting import until

from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.server import Server, Timings


class Heard(list[bytes]):
    """What a handler was given, and how often it was told of a gap."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps = 0

    def on_gap(self) -> None:
        self.gaps += 1


async def published_until(pool: Pool, channel: str, condition: Callable[[], bool]) -> None:
    """Publish again and again until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():
            await pool.publish([(channel, b"again")])
            await asyncio.sleep(0.01)


async def test_messages_reach_their_handlers_in_order(pool: Pool) -> None:
    """Each handler is given the messages of its channel, in order, from the moment subscribing returned."""
    one, two = Heard(), Heard()
    async with open_hub(pool) as hub:
        await asyncio.gather(hub.subscribe("one", one.append), hub.subscribe("two", two.append))
        await pool.publish([(channel, b"%d" % number) for number in range(100) for channel in ("one", "two")])
        await until(lambda: len(one) == len(two) == 100)
    assert one == two == [b"%d" % number for number in range(100)]


async def test_what_is_wanted_just_when_a_silence_is_over(redis_url: str) -> None:
    """A channel is subscribed to as at any other moment."""
    server = Server.of(redis_url, Timings(silence_s=0.0, silences=10**9))
    async with connect(server) as pool, open_hub(pool) as hub, asyncio.timeout(20):
        for number in range(300):
            await hub.subscribe(f"channel{number}", lambda _: None)
            for _ in range(number % 7):
                await asyncio.sleep(0)


async def test_an_unsubscribed_channel_is_silent(pool: Pool) -> None:
    """After unsubscribing nothing is handed over, and the server is told."""
    one, two = Heard(), Heard()
    async with open_hub(pool) as hub:
        await hub.subscribe("one", one.append)
        await hub.subscribe("two", two.append)
        hub.unsubscribe("one")
        await pool.publish([("one", b"x"), ("two", b"y")])
        await until(lambda: bool(two))
        async with asyncio.timeout(10):
            while dict(await raw(pool).pubsub_numsub("one")) != {b"one": 0}:
                await asyncio.sleep(0.005)
    assert (one, two) == ([], [b"y"])


async def test_a_cut_connection_is_a_gap(pool: Pool) -> None:
    """After CLIENT KILL every handler is told of the gap, once, and messages flow again."""
    one, two = Heard(), Heard()
    async with open_hub(pool) as hub:
        await hub.subscribe("one", one.append, one.on_gap)
        await hub.subscribe("two", two.append, two.on_gap)
        for times in (1, 2, 3):
            await kill_subscribers(raw(pool))
            await until(lambda times=times: one.gaps == two.gaps == times)  # type: ignore[misc]  # bound per turn
            await pool.publish([("one", b"%d" % times)])
            await until(lambda times=times: one[-1:] == [b"%d" % times])  # type: ignore[misc]  # bound per turn


async def test_the_log_says_which_server_closed_the_connection(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """One line per outage, and one at its end. They give no advice about settings, which let the connection be opened
    before."""
    heard = Heard()
    with caplog.at_level(logging.WARNING, "tokenlane.routing.store.hub"):
        async with open_hub(pool) as hub:
            await hub.subscribe("one", heard.append, heard.on_gap)
            await kill_subscribers(raw(pool))
            await until(lambda: heard.gaps == 1)
    lost, back = [record.getMessage() for record in caplog.records]
    for line in (lost, back):
        assert str(pool.server) in line
        assert not any(setting in line for setting in ("rediss", "maxclients"))


async def test_every_message_is_heard_or_lies_in_a_gap(pool: Pool) -> None:
    """While connections are cut at random, nothing is missing unless a gap was told after it was published."""
    heard = Heard()
    missed_at: list[int] = []
    sent = 0

    def on_gap() -> None:
        missed_at.append(sent)

    async with open_hub(pool) as hub:
        await hub.subscribe("one", heard.append, on_gap)
        for turn in range(20):
            for _ in range(20):
                sent += 1
                await pool.publish([("one", b"%d" % sent)])
            gaps = len(missed_at)
            await kill_subscribers(raw(pool))
            await until(lambda gaps=gaps: len(missed_at) > gaps)  # type: ignore[misc]  # bound per turn
            assert len(missed_at) == turn + 1
        last = sent
    lost = set(range(1, last + 1)) - {int(data) for data in heard}
    assert [int(data) for data in heard] == sorted({int(data) for data in heard})
    assert all(any(number <= gap for gap in missed_at) for number in lost)


async def test_many_subscriptions(pool: Pool) -> None:
    """Five hundred channels over one connection, subscribed at once, cut, and back."""
    heard = {f"channel{number}": Heard() for number in range(500)}
    async with open_hub(pool) as hub:
        async with asyncio.TaskGroup() as tasks:
            for channel, one in heard.items():
                tasks.create_task(hub.subscribe(channel, one.append, one.on_gap))
        subscribers = [one for one in await raw(pool).client_list() if int(one["sub"]) > 0]
        assert [int(one["sub"]) for one in subscribers] == [501]
        await pool.publish([(channel, channel.encode()) for channel in heard])
        await until(lambda: all(heard.values()))
        await kill_subscribers(raw(pool))
        await until(lambda: all(one.gaps == 1 for one in heard.values()))
    assert all(one == [channel.encode()] for channel, one in heard.items())


async def test_subscribing_while_the_connection_is_cut(pool: Pool) -> None:
    """Subscriptions asked for at any moment of a reconnect are confirmed, and work."""
    heard = {f"channel{number}": Heard() for number in range(30)}
    async with open_hub(pool) as hub:
        await hub.subscribe("other", lambda _: None)
        for turn, (channel, one) in enumerate(heard.items()):
            await kill_subscribers(raw(pool))
            for _ in range(turn % 10):
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                await hub.subscribe(channel, one.append)
        await until(lambda: hub.connected.is_set())
        for channel, one in heard.items():
            await published_until(pool, channel, lambda one=one: bool(one))  # type: ignore[misc]  # bound per turn


async def test_subscribing_while_the_server_is_away(tmp_path: Path) -> None:
    """Subscribing waits for the server; handlers from before are told of the gap when it is back."""
    old, new = Heard(), Heard()
    async with Restartable(tmp_path) as server, connect(server.url) as pool, open_hub(pool) as hub:
        await hub.subscribe("old", old.append, old.on_gap)
        await server.stop()
        subscribing = asyncio.create_task(hub.subscribe("new", new.append, new.on_gap))
        await until(lambda: not hub.connected.is_set())
        assert not subscribing.done()
        await server.start()
        async with asyncio.timeout(20):
            await subscribing
        await until(lambda: old.gaps == 1)
        await pool.publish([("old", b"x"), ("new", b"y")])
        await until(lambda: bool(old and new))
        assert new.gaps == 0


async def test_a_server_that_hangs_is_noticed(tmp_path: Path) -> None:
    """A connection that answers no PING is given up; when the server moves again the gap is told."""
    timings, heard = Timings(silence_s=0.05, pubsub_connect_s=0.2), Heard()
    async with Restartable(tmp_path) as server, connect(Server.of(server.url, timings)) as pool, open_hub(pool) as hub:
        await hub.subscribe("one", heard.append, heard.on_gap)
        server.signal(signal.SIGSTOP)
        await until(lambda: not hub.connected.is_set())
        server.signal(signal.SIGCONT)
        await until(lambda: heard.gaps == 1)
        await pool.publish([("one", b"x")])
        await until(lambda: heard == [b"x"])


async def test_a_server_that_hangs_before_it_has_read_all(tmp_path: Path) -> None:
    """Where what is sent stays unread until there is no room for more, that is noticed too."""
    timings = Timings(pubsub_connect_s=0.5)
    long = [str(number) * 4_000_000 for number in range(3)]
    async with Restartable(tmp_path) as server, connect(Server.of(server.url, timings)) as pool, open_hub(pool) as hub:
        await hub.subscribe("one", lambda _: None)
        server.signal(signal.SIGSTOP)
        asking = [asyncio.create_task(hub.subscribe(channel, lambda _: None)) for channel in long]
        await until(lambda: not hub.connected.is_set())
        server.signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            await asyncio.gather(*asking)


async def test_cancelling_while_subscribing(pool: Pool) -> None:
    """A subscription that is cancelled at any moment is taken back on the server too, and the others go on."""
    heard = Heard()
    async with open_hub(pool) as hub:
        await hub.subscribe("kept", heard.append)
        for turn in range(20):
            subscribing = asyncio.create_task(hub.subscribe(f"channel{turn}", heard.append))
            for _ in range(turn):
                await asyncio.sleep(0)
            subscribing.cancel()
            await asyncio.wait({subscribing})
            hub.unsubscribe(f"channel{turn}")
        async with asyncio.timeout(10):
            while any(count for _, count in await raw(pool).pubsub_numsub(*(f"channel{turn}" for turn in range(20)))):
                await asyncio.sleep(0.005)
        await pool.publish([("kept", b"x")])
        await until(lambda: heard == [b"x"])


async def test_a_handler_that_fails_harms_nobody(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a handler is logged without the message, and everything goes on."""
    heard = Heard()

    def fail(data: bytes) -> None:
        raise ValueError(data.decode())

    async with open_hub(pool) as hub:
        await hub.subscribe("bad", fail)
        await hub.subscribe("good", heard.append)
        await pool.publish([("bad", b"secret"), ("good", b"x")])
        await until(lambda: heard == [b"x"])
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_an_error_in_the_block_stays_itself(pool: Pool) -> None:
    """What is raised inside the hub's block is not wrapped in a group."""
    with pytest.raises(ZeroDivisionError):
        async with open_hub(pool):
            raise ZeroDivisionError
