"""`tokenlane exporter`: serves a pool's metrics to Prometheus."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer
from aiohttp import web

from tokenlane.config.cli.log_lines import start_logging
from tokenlane.config.cli.output import note
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.host.listen_address import bind_address
from tokenlane.config.host.stop_signals import stop_event
from tokenlane.config.settings.load import log_settings
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.http_server import add_health, serve_http
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.metrics.page import add_metrics
from tokenlane.routing.watch.metrics.pool_samples import PoolSamples
from tokenlane.routing.watch.metrics.samples import Sample
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .pool_session import pool_session

PORT = 9464
_READ_S, _PING_S = 4.0, 1.0
"""How long the pool may take to answer. Prometheus waits 10 s for a scrape, and Kubernetes 1 s for a probe."""


def exporter(
    listen: Annotated[
        str, typer.Option(metavar="HOST[:PORT]", help="Where to serve metrics; port 0 takes any free port.")
    ] = f"127.0.0.1:{PORT}",
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Serve the pool's metrics to Prometheus until Ctrl-C, SIGTERM or SIGHUP."""
    address = bind_address(listen, "--listen", PORT, any_port=True)
    start_logging(log_settings(), logging.INFO)
    pool_session(redis, pool, lambda opened: _export(opened, address))


async def _export(pool: Pool, address: tuple[str, int]) -> None:
    app, reader = web.Application(), _Reader(pool)
    add_metrics(app, pool.keys.pool, reader.read)
    add_health(app, reader.why_not_ready)
    await reader.read()  # counters count from here
    with stop_event() as stopping:
        async with serve_http(app, address, option="--listen", errors=pool.internal_errors) as url:
            note(f"serving metrics of pool {pool.keys.pool} at {url}/metrics until Ctrl-C")
            await stopping.wait()


class _Reader:
    """Reads the pool, one snapshot at a time, however many ask."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._samples, self._lock = pool, PoolSamples(), asyncio.Lock()

    async def read(self) -> list[Sample]:
        """The values of a new snapshot. If the pool does not answer, only `tokenlane_up`, which is 0."""
        try:
            async with asyncio.timeout(_READ_S), self._lock:  # who waits for another's read gives up in time, too
                return self._samples.of(await take_snapshot(self._pool))
        except (LlmError, TimeoutError):
            return [Sample("tokenlane_up", (), 0)]

    async def why_not_ready(self) -> str:
        """Why the pool cannot be read; empty if it answers."""
        try:
            async with asyncio.timeout(_PING_S):
                await self._pool.commands.ask_about("PING")
        except LlmError as error:
            return str(error)
        except TimeoutError:
            return f"{self._pool} has not answered for {_PING_S:g} s"
        return ""
