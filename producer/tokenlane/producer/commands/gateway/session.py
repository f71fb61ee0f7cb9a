"""Runs a gateway for the duration of a command: opens the pool and a client, and serves the HTTP APIs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import socket_keys
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.producer.client import Client
from tokenlane.producer.gateway.access.callers import WITHOUT_KEY, Callers
from tokenlane.producer.gateway.app import batch_keeper, gateway_app
from tokenlane.producer.gateway.batches.keeper import Keeper
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.files.shelf import Shelf
from tokenlane.producer.gateway.http.server import Certificate, serve_asgi
from tokenlane.routing.commands.pool_session import pool_session
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.access.known_keys import KnownApiKeys
from tokenlane.routing.store.access.remembered import Remembered
from tokenlane.routing.store.keychain import Keychain
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
    files: Path | None = None,
) -> _Result:
    """Serve the pool that a command's options name at this address while `run` runs. Returns its result.

    Args:
        address: the host and port from `bind_address`; port 0 is any free port.
        run: gets the gateway's URL.
        files: the directory for files and batches; None for a gateway without them.

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
                keys = server.keys if server.keys.keys else socket_keys(server.url)
                keeper = None if files is None else _batches(door, files, Keychain(keys, opened.keychain.pool))
                if keeper is not None:
                    tasks.create_task(keeper.keep(), name="tokenlane gateway: batches")
                app = gateway_app(door, why_not_ready, keeper)
                async with serve_asgi(app, address, option="--listen", certificate=certificate) as url:
                    return await run(url)

    return pool_session(redis, pool, serve, greets=False)


def _batches(door: Door, directory: Path, keychain: Keychain) -> Keeper:
    """What runs the batches in a directory.

    Raises:
        ConfigError: the directory cannot be used, or the pool has no key.
    """
    if keychain.key is None:
        raise ConfigError("--files: the pool has no key to seal files with: make one with `tokenlane key new`.")
    try:
        return batch_keeper(door, Shelf(directory.absolute(), keychain))
    except OSError as error:
        raise ConfigError(f"--files: the directory {directory} cannot be used: {error.strerror}.") from error
