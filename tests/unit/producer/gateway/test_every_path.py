"""What holds for all paths of the gateway, whichever dialect has them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from starlette.requests import Request
from starlette.routing import Route

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.producer import Client
from tokenlane.producer.gateway.app import batch_keeper, gateway_app
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.files.shelf import Shelf
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.keychain import Keychain

OPEN_TO_ALL = {"/", "/v1", "/healthz", "/readyz"}


@asynccontextmanager
async def failing(directory: Path, error: Exception) -> AsyncIterator[tuple[httpx.AsyncClient, Client, list[Route]]]:
    """A client of a gateway that fails with this error where it looks who asks, the pool's client, and all paths."""

    async def caller_of(_: Request) -> NoReturn:
        raise error

    async def policy() -> Policy:
        return Policy()

    async def why_not_ready() -> str:
        return ""

    async with MockPool() as pool, pool.client() as client:
        door = Door(client, caller_of, policy)
        keeper = batch_keeper(door, Shelf(directory, Keychain(KeyRing((PoolKey.new(),)), "main")))
        app = gateway_app(door, why_not_ready, keeper)
        routes = [route for route in app.routes if isinstance(route, Route) and route.path not in OPEN_TO_ALL]
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as web:
            yield web, client, routes


def calls(routes: list[Route]) -> list[tuple[str, str]]:
    """A method and a path for each route."""
    return [
        (method, route.path.replace("{id}", "x").replace("{model:path}", "x"))
        for route in routes
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


async def test_a_pool_that_is_away_is_said_in_the_shape_of_the_api(tmp_path: Path) -> None:
    async with failing(tmp_path, PoolUnavailable("the server does not answer")) as (web, _, routes):
        asked = calls(routes)
        assert {("POST", "/v1/responses"), ("POST", "/v1/files"), ("POST", "/v1/messages")} <= {*asked}
        for method, path in asked:
            response = await web.request(method, path, json={} if method == "POST" else None)
            assert response.status_code == 503, path
            assert "the server does not answer" in response.json()["error"]["message"], path


async def test_a_bug_is_counted_and_says_nothing_of_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither to the client nor in the log, which has where it happened."""
    caplog.set_level(logging.DEBUG)
    async with failing(tmp_path, RuntimeError("a secret word")) as (web, client, routes):
        for number, (method, path) in enumerate(calls(routes), 1):
            response = await web.request(method, path, json={} if method == "POST" else None)
            assert response.status_code == 500, path
            assert response.json()["error"]["message"], path
            assert "secret" not in response.text
            assert client.internal_errors == number, path
    assert "secret word" not in caplog.text
    assert "caller_of" in caplog.text
