"""Opens a client's link to a pool in Redis, with its connections, its heartbeat and its other tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer.link.link import Link, OpenLink
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import connect
from tokenlane.routing.store.server import Server
from tokenlane.routing.support.tasks import background, restart_on_error

from .heartbeat import ClientHeartbeat
from .redis_link import RedisLink
from .timings import Timings

_NO_KEYS = KeyRing()
_DEFAULT_TIMINGS = Timings()


def redis_link(
    where: str | Server, pool: str = "main", keys: KeyRing = _NO_KEYS, timings: Timings = _DEFAULT_TIMINGS
) -> OpenLink:
    """Return a function that opens a link to a pool. It may be called any number of times.

    Args:
        where: the Redis server, or its URL.
        pool: the pool's name.

    Raises, when the link is opened:
        PoolUnavailable: no Redis server answers at the URL, or the server requires a password.
        PoolKeyMismatch: the pool is sealed with another key.
    """
    return partial(_opened, where, pool, keys, timings)


@asynccontextmanager
async def _opened(where: str | Server, pool_name: str, keys: KeyRing, timings: Timings) -> AsyncIterator[Link]:
    async with (
        connect(where, pool_name, keys=keys) as pool,
        open_hub(pool, timings.server_patience_s) as hub,
        background() as requests,
    ):
        link = RedisLink(pool, hub, requests, new_id(), timings)
        heartbeat = ClientHeartbeat(pool, link, timings)
        await heartbeat.beat()
        try:
            async with background() as tasks:
                for name, work in {
                    "worker messages": link.worker_messages.run,
                    "client beat": heartbeat.run,
                }.items():
                    tasks.create_task(restart_on_error(name, work, pool.internal_errors), name=f"tokenlane {name}")
                yield link
        finally:
            # If some requests could not be cancelled, the client stays listed, so that routers cancel them as orphans.
            if await link.close_all():
                with suppress(LlmError):
                    await pool.beats.leave(link.client)
