"""A server may close a connection it was to keep, at the moment the next request is sent over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.fake_server import answer_of, ask

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.worker.providers import default_registry

EVENT = b'data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT)


@asynccontextmanager
async def answering(served: int) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that answers so many requests on each connection, and hangs up on the next; its URL, and the requests
    that came on each connection."""
    came: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place = len(came)
        came.append(0)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
                await reader.readexactly(int(length.split(b":")[1]))
                came[place] += 1
                if came[place] > served:
                    break
                writer.write(ANSWER)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", came


async def test_a_kept_connection_that_is_closed_is_no_failure() -> None:
    """The request is sent again, once, over a new connection."""
    async with answering(served=1) as (url, came):
        async with default_registry().create(LaneSettings("gpu0", "openai", url)) as provider:
            assert [await answer_of(provider, ask()) for _ in range(3)] == ["a"] * 3
    assert came == [2, 2, 1]


async def test_a_server_that_always_hangs_up_is_down() -> None:
    """A request that was lost over a new connection is not sent again, since the server may have run it."""
    async with answering(served=0) as (url, came):
        async with default_registry().create(LaneSettings("gpu0", "openai", url)) as provider:
            with pytest.raises(ProviderDown):
                await answer_of(provider, ask())
    assert came == [1]
