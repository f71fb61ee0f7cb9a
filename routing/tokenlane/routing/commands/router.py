"""`tokenlane router`: routing alone, without a lane. Worker processes route too; this is for pools that want more."""

from __future__ import annotations

import asyncio
import socket

from tokenlane.config.cli.output import note
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.host.stop_signals import told_to_stop
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.router import run_router
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import connect
from tokenlane.routing.support.tasks import background

from .pool_session import as_user_error

_PATIENCE_S = 10.0


def router(
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Sweep and dispatch for a pool until Ctrl-C, SIGTERM or SIGHUP."""
    try:
        asyncio.run(_route(find_pool(redis).url, pool_name(pool)))
    except LlmError as error:
        raise as_user_error(error) from error


async def _route(url: str, pool_name: str) -> None:
    with told_to_stop() as stopping:
        async with connect(url, pool_name) as pool, open_hub(pool, _PATIENCE_S) as hub, background() as tasks:
            await hub.subscribe(pool.keys.hub("router"), lambda _: None)  # a user who may not is told so now
            tasks.create_task(run_router(pool, hub, host=socket.gethostname()), name="tokenlane router")
            note(f"routing for {pool!r}, until Ctrl-C", err=True)
            await stopping.wait()
