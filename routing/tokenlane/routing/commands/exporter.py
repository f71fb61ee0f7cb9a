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
from tokenlane.routing.store.access.api_key import QuotaUse
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.metrics.page import add_metrics
from tokenlane.routing.watch.metrics.pool_samples import PoolSamples
from tokenlane.routing.watch.metrics.samples import Sample
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .pool_session import check_readable, pool_session

logger = logging.getLogger(__name__)

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
    pool_session(redis, pool, lambda opened: _export(opened, address), greets=False)


async def _export(pool: Pool, address: tuple[str, int]) -> None:
    app, reader = web.Application(), _Reader(pool)
    add_metrics(app, pool.keys.pool, reader.read)
    add_health(app, reader.why_not_ready)
    with stop_event() as stopping:
        async with serve_http(app, address, option="--listen", errors=pool.internal_errors) as url:
            await check_readable(pool)
            note(f"serving metrics of pool {pool.keys.pool} at {url}/metrics until Ctrl-C")
            await reader.read()  # counters count from here
            await stopping.wait()


async def _read_quotas(pool: Pool) -> tuple[QuotaUse, ...]:
    """What the pool's API keys use of their limits."""
    return await pool.api_keys.quotas(await pool.api_keys.read())


class _Reader:
    """Reads the pool, one snapshot at a time, however many ask: who asks meanwhile gets that snapshot too."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._samples = pool, PoolSamples()
        self._reading: asyncio.Task[list[Sample] | None] | None = None
        self._is_away = False

    async def read(self) -> list[Sample]:
        """The values of a new snapshot. If the pool does not answer, `tokenlane_up` is 0, and its values are missing.

        Raises:
            HTTPInternalServerError: the read failed because of a bug, which was counted and logged.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())  # ends by itself, within _READ_S
        samples = await asyncio.shield(self._reading)
        if samples is None:
            raise web.HTTPInternalServerError(text="internal error; the exporter's log says more\n")
        return [*samples, Sample("tokenlane_exporter_errors_total", (), self._pool.internal_errors.count)]

    async def _read(self) -> list[Sample] | None:
        """The values of the pool; None after a bug. It is not raised, since maybe nobody waits for the result."""
        try:
            async with asyncio.timeout(_READ_S):
                samples = self._samples.of(await take_snapshot(self._pool), await _read_quotas(self._pool))
        except LlmError as error:
            self._log_outage(str(error))
        except TimeoutError:
            self._log_outage(f"{self._pool} has not answered for {_READ_S:g} s")
        except Exception as error:
            self._pool.internal_errors.record("exporter", error)
            return None
        else:
            if self._is_away:
                logger.info("%s answers again", self._pool)
            self._is_away = False
            return samples
        return [Sample("tokenlane_up", (), 0)]

    def _log_outage(self, why: str) -> None:
        """Warn once in each outage."""
        if not self._is_away:
            logger.warning("tokenlane_up is 0 until the pool can be read: %s", why)
        self._is_away = True

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
