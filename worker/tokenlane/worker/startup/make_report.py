"""Makes a worker's startup report for an announced lane, and for `worker --check` as a dry run."""

from __future__ import annotations

from dataclasses import replace

from tokenlane.config.host.pool_key_files import socket_keys
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.lanes.offer import Announcement, Offer
from tokenlane.routing.decide.lanes.state import UP
from tokenlane.routing.store.pool import connect
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.server import CAPACITY, needs_builtin_server
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.model_server.describe_lane import describe_lane
from tokenlane.worker.lane.model_server.readiness import check_condition
from tokenlane.worker.providers import default_registry

from .checks import check_name, check_pins, check_pool, check_server, check_shared_model_server
from .probe_model_server import ServerProbe, probe_model_server
from .startup_report import Destination, StartupReport


async def report_on_lane(lane: Lane, to: Destination) -> StartupReport:
    """Report on an announced lane. Never raises an `LlmError`."""
    condition = lane.availability.condition
    announced = lane.availability.announcement if condition == UP else None
    probe = await probe_model_server(to.settings, lane.provider, condition)
    findings = [*probe.findings(to.settings), *check_pins(announced)]
    try:
        snapshot = await take_snapshot(lane.pool)
        findings += check_shared_model_server(announced, snapshot)
    except LlmError:
        snapshot = None
    findings += check_server(to.settings, probe, findings)
    return StartupReport(
        to, lane.pool.keychain.key_id, probe, announced, snapshot, tuple(findings), waits=condition != UP
    )


async def dry_run(to: Destination) -> StartupReport:
    """Report on the model server and the pool that a worker would use. This announces no lane, accepts no work and does
    not start the built-in model's server.

    Raises:
        PoolUnavailable: the pool does not answer.
        ConfigError: the provider does not exist, or its endpoint cannot be used.
    """
    ring = to.redis.keys if to.redis.keys.keys else socket_keys(to.redis.url)
    async with connect(to.redis.url, to.pool) as pool:
        probe, lane, findings = await _try_model_server(to.settings)
        snapshot = await take_snapshot(pool)
        findings += [
            *check_pins(lane),
            *check_name(lane, snapshot),
            *check_shared_model_server(lane, snapshot),
            *await check_pool(pool, ring, snapshot),
        ]
    findings += check_server(to.settings, probe, findings)
    key_id = snapshot.key_id or next(iter(ring.ids), None)
    return StartupReport(to, key_id, probe, lane, snapshot, tuple(findings))


async def _try_model_server(settings: LaneSettings) -> tuple[ServerProbe, Announcement | None, list[Finding]]:
    """Probe the model server. Returns the probe, the announcement that the lane would make (None if the model server
    does not answer), and the findings."""
    if needs_builtin_server(settings):
        probe = ServerProbe("a server of its own", models=(MODEL_NAME,))
        offer = Offer(limits={"chat": settings.capacity or CAPACITY})
        lane = Announcement(settings.name, settings.provider, "", (MODEL_NAME,), offer)
        return probe, lane, list(probe.findings(settings))
    async with default_registry().create(settings) as provider:
        probe = await probe_model_server(settings, provider, await check_condition(provider))
        findings = list(probe.findings(settings))
        if probe.condition != UP:
            return probe, None, [_with_wait(finding) for finding in findings]
        if probe.error is not None:
            return probe, None, findings
        try:
            return probe, await describe_lane(settings, provider), findings
        except LlmError as error:
            if any(finding.code == Code.MODEL_MISSING for finding in findings):
                return probe, None, findings
            return probe, None, [Finding(Code.MODEL_SERVER, "fail", error.message, subject=settings.name), *findings]


def _with_wait(finding: Finding) -> Finding:
    """Add to the finding of a model server that cannot work now that a worker would wait for it."""
    if finding.code != Code.MODEL_SERVER:
        return finding
    return replace(finding, advice="a worker may start all the same: it waits until the model server works")
