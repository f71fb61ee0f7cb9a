"""Checks whether a lane can work in the pool that its worker joins."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Iterator

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError, PoolKeyMismatch
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.rehearsal import rehearse
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.routing.watch.pool_health import HAND_OVER_KEYS
from tokenlane.routing.watch.snapshot import Snapshot
from tokenlane.worker.providers.server_names import NAMES

from .probe_model_server import ServerProbe

_PUBLISH_S = 10.0
_NAME_IS_FREE = ("draining", "left", "gone")


def check_pins(lane: Announcement | None) -> list[Finding]:
    """Check that the lane serves its pinned models."""
    return [
        Finding(Code.MODEL_NOT_PINNED, "fail", f"model {model!r} is pinned and is not served: {why}", subject=model)
        for model, why in (lane.offer.not_as_pinned.items() if lane is not None else ())
    ]


def check_name(lane: Announcement | None, snapshot: Snapshot) -> Iterator[Finding]:
    """Check that no lane elsewhere has this lane's name."""
    if lane is None:
        return
    for other in snapshot.lanes:
        if other.name == lane.lane and other.endpoint != lane.endpoint and other.state not in _NAME_IS_FREE:
            observed = f"the lane's name is in use for {other.endpoint}"
            advice = "name the lane differently with --lane, or stop the worker that uses the name"
            yield Finding(Code.LANE_TAKEN, "fail", observed, advice, lane.lane)


def check_shared_model_server(lane: Announcement | None, snapshot: Snapshot) -> list[Finding]:
    """Check for other lanes that serve the same model server."""
    if lane is None or not lane.endpoint:
        return []
    endpoint = lane.endpoint.rstrip("/").lower()
    others = [
        repr(other.name)
        for other in snapshot.lanes
        if other.name != lane.lane and not other.state.is_away and other.endpoint.rstrip("/").lower() == endpoint
    ]
    if not others:
        return []
    lanes = f"lanes {', '.join(others)} also serve" if len(others) > 1 else f"lane {others[0]} also serves"
    observed = f"{lanes} this model server; each lane sends it requests up to its own capacity"
    return [Finding(Code.MODEL_SERVER_SHARED, "warn", observed, subject=lane.lane)]


def check_server(settings: LaneSettings, probe: ServerProbe, others: Iterable[Finding]) -> list[Finding]:
    """Check that the lane's provider is the one for the server that answers. A server that shows only OpenAI's dialect
    is not reported, since it may be any kind of server behind a proxy.

    Args:
        others: the findings so far. If one of them fails, it is the likely problem, and the provider only a remark.
    """
    server, provider = probe.server, settings.provider
    if server is None or server in (provider, "openai"):
        return []
    advice = f'use --provider {server}, or set provider = "{server}" in llm.toml'
    if provider == "openai":
        observed = f"this is {NAMES[server]}, whose provider supports it better"
        return [Finding(Code.OTHER_SERVER, "warn", observed, advice, settings.name)]
    observed = f"this is {NAMES[server]}, not {NAMES[provider]}"
    if any(finding.severity == "fail" for finding in others):
        return [Finding(Code.OTHER_SERVER, "warn", observed, advice, settings.name)]
    observed += "; the lane accepts requests, but some fail, or their options are ignored, since the servers differ"
    return [Finding(Code.OTHER_SERVER, "fail", observed, f"restart the worker: {advice}", settings.name)]


async def check_pool(pool: Pool, ring: KeyRing, snapshot: Snapshot) -> list[Finding]:
    """Check this worker's keys, and its permissions on the Redis server."""
    return [*await _keys(pool, ring, snapshot), *await _refused(pool)]


async def _keys(pool: Pool, ring: KeyRing, snapshot: Snapshot) -> list[Finding]:
    """Check the keys without joining the pool, which may seal it."""
    try:
        await pool.key_agreement.check(ring)
    except PoolKeyMismatch as error:
        return [Finding(Code.KEY_MISMATCH, "fail", error.message)]
    ahead = [key_id for key_id in snapshot.prepared if ring.find(key_id) is None]
    if ahead:
        observed = f"this worker lacks the pool's next key, {', '.join(ahead)}, which is prepared"
        return [Finding(Code.KEY_MISSING, "fail", observed, f"before `tokenlane key rotate`, {HAND_OVER_KEYS}")]
    if snapshot.key_id is None and ring.keys and (snapshot.lanes or snapshot.clients.known):
        observed = f"the pool is used without a key, but this worker has key {', '.join(ring.ids)}"
        return [Finding(Code.KEY_MISMATCH, "fail", observed, "start the worker without a key")]
    return []


async def _refused(pool: Pool) -> list[Finding]:
    """Check that the Redis server allows this user every command and channel that a worker uses."""
    refused = list(await rehearse(pool))
    delivered = asyncio.Event()
    channel = pool.keys.control(f"check-{secrets.token_hex(8)}")
    try:
        async with open_hub(pool, _PUBLISH_S / 2) as hub, asyncio.timeout(_PUBLISH_S):
            await hub.subscribe(channel, lambda _: delivered.set())
            await pool.publish([(channel, b"")])
            await delivered.wait()
    except TimeoutError:
        refused.append("the Redis server does not deliver messages on the pool's channels")
    except LlmError as error:
        refused.append(error.message)
    return [Finding(Code.SERVER_REFUSES, "fail", refusal) for refusal in dict.fromkeys(refused)]
