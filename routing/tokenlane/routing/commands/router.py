"""`tokenlane router`: a router without a lane, for pools that need more routers than their workers run."""

from __future__ import annotations

import logging
import socket

from tokenlane.config.cli.log_lines import start_logging
from tokenlane.config.cli.output import note
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.host.stop_signals import stop_event
from tokenlane.config.settings.load import log_settings
from tokenlane.routing.router import run_router
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background

from .pool_session import pool_session

_PATIENCE_S = 10.0


def router(redis: RedisUrl = None, pool: PoolName = None) -> None:
    """Route requests to lanes until Ctrl-C, SIGTERM or SIGHUP. Workers route, too."""
    start_logging(log_settings(), logging.INFO)
    pool_session(redis, pool, _route)


async def _route(pool: Pool) -> None:
    with stop_event() as stopping:
        async with open_hub(pool, _PATIENCE_S) as hub, background() as tasks:
            # Both fail at once for a user without the permissions of a router, which itself would try again and again.
            await hub.subscribe(pool.keys.doorbell, lambda _: None)
            hub.unsubscribe(pool.keys.doorbell)
            await pool.survey()
            tasks.create_task(run_router(pool, hub, host=socket.gethostname()), name="tokenlane router")
            note(f"routing requests of pool {pool.keys.pool} until Ctrl-C", err=True)
            await stopping.wait()
