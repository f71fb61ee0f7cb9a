"""A gateway in front of a mock pool, on a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from tokenlane.producer.gateway.access.caller import Caller, session_of
from tokenlane.producer.gateway.app import gateway_app
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.http.outlet import Pauses
from tokenlane.producer.gateway.http.server import serve_asgi
from tokenlane.producer.testing import MockPool
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.support.tasks import background


@asynccontextmanager
async def served(pool: MockPool, pauses: Pauses | None = None, *, in_background: bool = False) -> AsyncIterator[str]:
    """Serve the gateway of an entered pool. Yields its URL. The caller's agent is in the header `x-agent`.

    Args:
        in_background: whether the gateway runs responses in the background.
    """

    async def caller_of(request: Request) -> Caller:
        return Caller(request.headers.get("x-agent", "tester"), conversation=session_of(request.headers))

    async def policy() -> Policy:
        return Policy()

    async def why_not_ready() -> str:
        return ""

    async with pool.client() as client, background() as tasks:
        door = Door(client, caller_of, policy, pauses or Pauses(), tasks if in_background else None)
        async with serve_asgi(gateway_app(door, why_not_ready), ("127.0.0.1", 0), option="--listen") as url:
            yield url
