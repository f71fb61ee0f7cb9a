"""Serves a worker's metrics and health, if its lane's settings say where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tokenlane.config.host.listen_address import bind_address
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.http_server import add_health, serve_http
from tokenlane.routing.support.tasks import InternalErrors
from tokenlane.routing.watch.metrics.page import add_metrics
from tokenlane.routing.watch.metrics.samples import Sample

from .lane.lane import Lane

PORT = 9465
_OPTION = "--metrics"


@dataclass
class WorkerHealth:
    """What a worker's pages say of its lane. Set `lane` when it is announced.

    `internal_errors`: unexpected errors in this process. Give it to `open_lane`, so that the errors of the pages are
    reported with those of the lane.
    """

    lane: Lane | None = None
    internal_errors: InternalErrors = field(default_factory=InternalErrors)

    async def read(self) -> Iterable[Sample]:
        """The worker's metrics; none before its lane is announced."""
        return () if self.lane is None else self.lane.measured()

    async def why_not_ready(self) -> str:
        """Why the worker cannot start a request now; empty if it can."""
        if self.lane is None:
            return "the lane is not announced yet"
        if not self.lane.heartbeat.is_registered:
            return f"lane {self.lane.name!r}: {self.lane.pool} does not answer the worker"
        if self.lane.heartbeat.conflict is not None:
            return f"lane {self.lane.name!r}: another worker uses its name for {self.lane.heartbeat.conflict}"
        if self.lane.availability.state is LaneState.UP:
            return ""
        why = self.lane.availability.condition.why
        return f"lane {self.lane.name!r} is {self.lane.availability.state}{why and f': {why}'}"


@asynccontextmanager
async def serving_metrics(health: WorkerHealth, listen: str | None, pool: str) -> AsyncIterator[str]:
    """Serve `/metrics`, `/healthz` and `/readyz` while the block runs. Yields their URL, empty if nothing is served.

    Args:
        listen: HOST or HOST:PORT; None to serve nothing.
        pool: the pool's name.

    Raises:
        ConfigError: this process cannot listen at the address.
    """
    if listen is None:
        yield ""
        return
    app = web.Application()
    add_metrics(app, pool, health.read)
    add_health(app, health.why_not_ready)
    address = bind_address(listen, _OPTION, PORT, any_port=True)
    async with serve_http(app, address, option=_OPTION, errors=health.internal_errors) as url:
        yield url
