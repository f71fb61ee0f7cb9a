"""Runs a gateway for the duration of a command: opens the pool and a client, and serves the HTTP APIs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TypeVar

from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.producer.client import Client
from tokenlane.producer.gateway.access.callers import WITHOUT_KEY, Callers
from tokenlane.producer.gateway.app import gateway_app
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.http.server import Certificate, serve_asgi
from tokenlane.routing.commands.pool_session import pool_session
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.access.known_keys import KnownApiKeys
from tokenlane.routing.store.access.remembered import Remembered
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_records import RequestRecord
from tokenlane.routing.support.tasks import background

_Result = TypeVar("_Result")


def gateway_session(
    redis: str | None,
    pool: str | None,
    address: tuple[str, int],
    run: Callable[[str], Awaitable[_Result]],
    *,
    certificate: Certificate | None = None,
) -> _Result:
    """Serve the pool that a command's options name at this address while `run` runs. Returns its result.

    Args:
        address: the host and port from `bind_address`; port 0 is any free port.
        run: gets the gateway's URL.

    Raises:
        UserError: the pool cannot be opened, or this process cannot listen there.
    """
    server = find_pool(redis)

    async def serve(opened: Pool) -> _Result:
        policy = Remembered(opened.policies.read)
        callers = Callers(KnownApiKeys(opened.api_keys), this_host_is_trusted=ip_address(address[0]).is_loopback)

        async def record_of(request_id: str) -> RequestRecord | None:
            return next(iter(await opened.records.read([request_id])), None)

        async def why_not_ready() -> str:
            try:
                await opened.policies.read()
            except LlmError as error:
                return error.message
            return ""

        async with Client(server.url, pool=pool_name(pool), key=server.keys, agent=WITHOUT_KEY) as client:
            async with background() as tasks:
                door = Door(client, callers.caller_of, policy.get, tasks=tasks, record_of=record_of)
                app = gateway_app(door, why_not_ready)
                async with serve_asgi(app, address, option="--listen", certificate=certificate) as url:
                    return await run(url)

    return pool_session(redis, pool, serve, greets=False)
