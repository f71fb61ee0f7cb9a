"""Gateways for tests: one that listens on loopback, and the events of its streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request

from tokenlane.producer import Client
from tokenlane.producer.gateway.access.caller import Caller, session_of
from tokenlane.producer.gateway.app import gateway_app
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.http.outlet import Pauses
from tokenlane.producer.gateway.http.server import serve_asgi
from tokenlane.producer.testing import MockPool
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_records import RequestRecord
from tokenlane.routing.support.tasks import background

_NO_POLICY = Policy()


def door_of(
    client: Client,
    *,
    policy: Policy = _NO_POLICY,
    pauses: Pauses | None = None,
    pool: Pool | None = None,
    tasks: asyncio.TaskGroup | None = None,
) -> Door:
    """A door in front of this client's pool, open to everyone. The caller's agent may be in the header `x-agent`.

    Args:
        pool: the pool, where requests may be joined again.
        tasks: in which responses go on in the background.
    """

    async def caller_of(request: Request) -> Caller:
        return Caller(request.headers.get("x-agent", "gateway"), conversation=session_of(request.headers))

    async def read_policy() -> Policy:
        return policy

    async def record_of(request_id: str) -> RequestRecord | None:
        return None if pool is None else next(iter(await pool.records.read([request_id])), None)

    return Door(client, caller_of, read_policy, pauses or Pauses(), tasks, record_of)


@asynccontextmanager
async def gateway_of(
    client: Client,
    *,
    policy: Policy = _NO_POLICY,
    pauses: Pauses | None = None,
    pool: Pool | None = None,
    tasks: asyncio.TaskGroup | None = None,
) -> AsyncIterator[str]:
    """A gateway that listens on loopback; its URL, without a path."""

    async def why_not_ready() -> str:
        return ""

    app = gateway_app(door_of(client, policy=policy, pauses=pauses, pool=pool, tasks=tasks), why_not_ready)
    async with serve_asgi(app, ("127.0.0.1", 0), option="--listen") as url:
        yield url


@asynccontextmanager
async def served(pool: MockPool, pauses: Pauses | None = None, *, in_background: bool = False) -> AsyncIterator[str]:
    """Serve the gateway of an entered mock pool. Yields its URL.

    Args:
        in_background: whether the gateway runs responses in the background.
    """
    async with pool.client() as client, background() as tasks:
        async with gateway_of(client, pauses=pauses, tasks=tasks if in_background else None) as url:
            yield url


def events_of(stream: bytes) -> list[Any]:
    """The data of the events of a stream, without the `[DONE]` of OpenAI's."""
    lines = [line.removeprefix("data: ") for line in stream.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]
