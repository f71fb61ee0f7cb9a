"""A worker's look at its back end and its pool: before it comes, as `worker --check` does, and when it has come."""

from __future__ import annotations

from collections.abc import Iterable

from tokenlane.config.host.pool_key_files import KeyRing, socket_keys
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.lanes.offer import Announcement, Offer
from tokenlane.routing.decide.lanes.state import UP
from tokenlane.routing.store.pool import connect
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.model import DOWNLOAD_BYTES, downloaded
from tokenlane.worker.builtin.server import CAPACITY, needs_server
from tokenlane.worker.lane.describe_lane import describe_lane
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.readiness import condition_of
from tokenlane.worker.providers import default_registry

from .back_end import BackEnd, look_at_back_end
from .checks import check_lane, check_pool, check_server
from .startup_report import Destination, StartupReport


async def report_on_lane(lane: Lane, to: Destination) -> StartupReport:
    """The arrival of a lane that is announced already; never raises an `LlmError`."""
    condition, announced = lane.availability.condition, lane.availability.announcement
    back_end = await look_at_back_end(to.settings, lane.provider, condition)
    try:
        seen = await take_snapshot(lane.pool)
    except LlmError:
        seen = None
    return StartupReport(
        to,
        lane.pool.keychain.key_id,
        back_end,
        announced if condition == UP else None,
        seen,
        _with_server(to, back_end, back_end.findings(to.settings)),
        waits=condition != UP,
    )


async def dry_run(to: Destination) -> StartupReport:
    """Look at the back end and the pool as a worker would, taking no work and announcing nothing. A server for the
    built-in model is not started.

    Raises:
        PoolUnavailable: no pool answers there.
        ConfigError: there is no such provider, or its endpoint cannot be used.
    """
    if needs_server(to.settings):
        return await _before_its_server(to)
    settings, ring = to.settings, _ring(to)
    async with connect(to.redis.url, to.pool) as pool, default_registry().create(settings) as provider:
        back_end = await look_at_back_end(settings, provider, await condition_of(provider))
        findings, lane = list(back_end.findings(settings)), None
        if back_end.error is None and back_end.condition == UP:
            try:
                lane = await describe_lane(settings, provider)
            except LlmError as error:
                findings.insert(0, Finding(Code.BACK_END, "fail", str(error), subject=settings.name))
        seen = await take_snapshot(pool)
        findings += [*check_lane(settings, back_end, lane, seen), *await check_pool(pool, ring, seen)]
    key_id = seen.key_id or next(iter(ring.ids), None)
    return StartupReport(to, key_id, back_end, lane, seen, _with_server(to, back_end, findings))


async def _before_its_server(to: Destination) -> StartupReport:
    """The arrival of a lane whose worker will start the built-in model's server."""
    settings, ring = to.settings, _ring(to)
    back_end = BackEnd("a server of its own", models=(MODEL_NAME,))
    offer = Offer(limits={"chat": settings.capacity or CAPACITY})
    lane = Announcement(settings.name, settings.provider, "", (MODEL_NAME,), offer)
    async with connect(to.redis.url, to.pool) as pool:
        seen = await take_snapshot(pool)
        findings = (
            *back_end.findings(settings),
            *check_lane(settings, back_end, lane, seen),
            *await check_pool(pool, ring, seen),
        )
    when = "already" if downloaded() else f"first ({DOWNLOAD_BYTES / 1e6:.0f} MB)"
    own_model = f", the built-in one, which is downloaded {when}"
    return StartupReport(to, seen.key_id or next(iter(ring.ids), None), back_end, lane, seen, findings, own_model)


def _ring(to: Destination) -> KeyRing:
    return to.redis.keys if to.redis.keys.keys else socket_keys(to.redis.url)


def _with_server(to: Destination, back_end: BackEnd, findings: Iterable[Finding]) -> tuple[Finding, ...]:
    others = tuple(findings)
    return (*others, *check_server(to.settings, back_end, works=not others))
