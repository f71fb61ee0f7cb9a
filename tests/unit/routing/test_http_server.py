"""The HTTP server of verbs."""

from __future__ import annotations

import asyncio
import logging
import re

import aiohttp
import pytest
from aiohttp import web

from tokenlane.config.exit_codes import ConfigError
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.http_server import add_health, serve_http
from tokenlane.routing.support.tasks import InternalErrors

ANYWHERE = ("127.0.0.1", 0)


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_health_and_readiness() -> None:
    """A live process is healthy; it is ready unless it gives a reason."""
    reason, app = "", web.Application()

    async def why_not_ready() -> str:
        return reason

    add_health(app, why_not_ready)
    async with serve_http(app, ANYWHERE, option="--listen", errors=InternalErrors()) as url:
        assert await get(f"{url}/healthz") == (200, "ok\n")
        assert await get(f"{url}/readyz") == (200, "ok\n")
        reason = "the model server is down"
        assert await get(f"{url}/readyz") == (503, "the model server is down\n")
        assert (await get(f"{url}/unknown"))[0] == 404
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(f"{url}/healthz")


async def test_errors_of_handlers() -> None:
    """An error of the pool is passed on; any other is counted, and its text, which may be secret, stays inside."""
    errors, app = InternalErrors(), web.Application()

    async def away(_: web.Request) -> web.Response:
        raise PoolUnavailable("Redis does not answer")

    async def wrong(_: web.Request) -> web.Response:
        raise ValueError("SECRET")

    app.router.add_get("/away", away)
    app.router.add_get("/wrong", wrong)
    async with serve_http(app, ANYWHERE, option="--listen", errors=errors) as url:
        assert await get(f"{url}/away") == (503, "Redis does not answer [pool_unavailable]\n")
        status, text = await get(f"{url}/wrong")
    assert (status, errors.count) == (500, 1)
    assert "SECRET" not in text


async def test_a_port_in_use() -> None:
    """The error names the option and the address."""
    async with serve_http(web.Application(), ANYWHERE, option="--listen", errors=InternalErrors()) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigError, match=f"--metrics 127.0.0.1:{port}"):
            async with serve_http(web.Application(), ("127.0.0.1", port), option="--metrics", errors=InternalErrors()):
                raise AssertionError("two servers listen at one address")


async def test_the_end_cancels_open_streams() -> None:
    """A stream without an end does not keep the process."""
    app, streams, ended = web.Application(), asyncio.Event(), asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        streams.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return response

    app.router.add_get("/stream", stream)
    async with aiohttp.ClientSession() as session:
        async with serve_http(app, ANYWHERE, option="--listen", errors=InternalErrors()) as url:
            async with session.get(f"{url}/stream"):
                await streams.wait()
                assert not ended.is_set()
        assert ended.is_set()


async def exchange(url: str, *parts: bytes) -> bytes:
    """Send bytes on a new connection, and return what the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        writer.writelines(parts)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def counting_body() -> web.Application:
    """An application with one page, which reads the request's body."""

    async def read(request: web.Request) -> web.Response:
        return web.Response(text=f"{len(await request.read())} bytes\n")

    app = web.Application()
    app.router.add_post("/", read)
    return app


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\nX-Secret: " + 100_000 * b"S" + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00SECRET\r\n\r\n",
    ],
)
async def test_a_malformed_request(request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused with 400 and costs at most one line, without a traceback and without what the request had."""
    errors = InternalErrors()
    async with serve_http(counting_body(), ANYWHERE, option="--listen", errors=errors) as url:
        answer = await exchange(url, request_bytes)
    head = answer.partition(b"\r\n\r\n")[0]
    assert b" 400 " in head
    assert re.findall(rb"Server: (.*)\r", head) in ([b"tokenlane"], [])
    assert b"ython" not in head
    assert len(caplog.records) <= 1
    assert all(record.exc_info is None and record.levelno < logging.ERROR for record in caplog.records)
    assert "SSS" not in caplog.text
    assert errors.count == 0


async def test_a_body_that_is_not_framed_as_its_headers_say(caplog: pytest.LogCaptureFixture) -> None:
    """It is the sender's fault, and no bug."""
    errors = InternalErrors()
    headers = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serve_http(counting_body(), ANYWHERE, option="--listen", errors=errors) as url:
        answer = await exchange(url, headers, b"zz\r\nwrong\r\n")
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert errors.count == 0
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_body_that_is_not_compressed_as_its_headers_say() -> None:
    """A handler gets the bytes as they were sent, so that a small body cannot become a large one."""
    errors, headers = InternalErrors(), {"Content-Encoding": "gzip"}
    async with (
        serve_http(counting_body(), ANYWHERE, option="--listen", errors=errors) as url,
        aiohttp.ClientSession() as session,
        session.post(url, data=b"wrong", headers=headers) as answer,
    ):
        assert (answer.status, await answer.text()) == (200, "5 bytes\n")
    assert errors.count == 0


async def test_headers_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is closed, after a request on it too."""
    monkeypatch.setattr("tokenlane.routing.http_server._IDLE_S", 0.1)
    async with serve_http(counting_body(), ANYWHERE, option="--listen", errors=InternalErrors()) as url:
        assert await exchange(url, b"GET / HTTP/1.1\r\nHost:") == b""
        whole = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
        assert (await exchange(url, whole, b"POST / HTTP/1.1\r\nHost:")).endswith(b"0 bytes\n")
