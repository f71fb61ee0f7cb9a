"""The HTTP server of verbs."""

from __future__ import annotations

import asyncio

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
