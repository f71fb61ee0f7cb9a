"""Clients that open connections and say nothing, too little or too much."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from tests.gateways import gateway_of

from tokenlane.producer.gateway.http.connection import Connection
from tokenlane.producer.testing import MockPool

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(BODY)


async def rest_of(url: str, *pieces: bytes) -> bytes:
    """What a raw connection gets until the gateway closes it."""
    at = urlsplit(url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:  # the gateway closed it while more was on the way
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("pieces", [(), (b"POST /v1",), (HEAD,)], ids=["nothing", "a line", "some headers"])
async def test_a_silent_connection_is_closed(pieces: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_within_s", 0.2)
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url:
        assert await rest_of(url, *pieces) == b""


@pytest.mark.parametrize("line", [b"X-Long: " + b"a" * 200_000, b"X: 1\r\n" * 40_000], ids=["one", "many"])
async def test_headers_without_end_are_refused(line: bytes) -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url:
        assert b"200 OK" not in await rest_of(url, HEAD, *(line[at : at + 8192] for at in range(0, len(line), 8192)))


async def test_a_slow_body_and_answer_outlive_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for the head alone, of the first request and of the next."""
    monkeypatch.setattr(Connection, "head_within_s", 0.3)
    answered = asyncio.Event()

    async def handler(_: object) -> str:
        await answered.wait()
        return "late"

    async with MockPool(handler) as pool, pool.client() as client, gateway_of(client) as url:
        at = urlsplit(url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        writer.write(HEAD + b"\r\n" + BODY[:9])
        while not pool.requests:
            asyncio.get_running_loop().call_later(0.6, writer.write, BODY[9:])
            await asyncio.sleep(0.7)  # longer than the limit, which must not end the connection
        asyncio.get_running_loop().call_later(0.6, answered.set)
        async with asyncio.timeout(20):
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await reader.readuntil(b"0\r\n\r\n")
            writer.write(HEAD + b"\r\n" + BODY)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.close()
