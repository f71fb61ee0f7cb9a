"""What keeps a lane from working in the pool it comes to."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError, PoolKeyMismatch
from tokenlane.routing.decide.candidates import served_name
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.rehearsal import rehearse
from tokenlane.routing.watch.finding import Code, Finding, Severity
from tokenlane.routing.watch.snapshot import Snapshot
from tokenlane.worker.providers.server_names import NAMES

from .back_end import BackEnd

_PUBLISH_S = 10.0


def check_lane(
    settings: LaneSettings, back_end: BackEnd, lane: Announcement | None, seen: Snapshot
) -> Iterator[Finding]:
    """What is wrong with what the lane would announce."""
    for name in settings.digests if lane else ():
        wanted = not settings.models or served_name(name, settings.models)
        if lane and wanted and back_end.has(name) and not served_name(name, lane.models):
            found = f"model {name!r} is pinned, and not served, since it is another or cannot be checked"
            yield Finding(Code.MODEL_NOT_PINNED, "fail", found, "the log says which", name)
    for other in seen.lanes if lane else ():
        if lane and other.name == lane.lane and other.endpoint != lane.endpoint and other.state not in _FREE:
            found = f"the lane's name is in use for {other.endpoint}"
            advice = "choose another with --lane, or stop that worker"
            yield Finding(Code.LANE_TAKEN, "fail", found, advice, lane.lane)


_FREE = ("draining", "left", "gone")


def check_server(settings: LaneSettings, back_end: BackEnd, *, works: bool) -> Iterator[Finding]:
    """Which server answers, if it is not that of the lane's provider. One that only speaks OpenAI's dialect may be any,
    with something before it.

    Args:
        works: nothing else is wrong: a provider for another server is then, however well that answers.
    """
    server, provider = back_end.server, settings.provider
    if server is None or server in (provider, "openai"):
        return
    found = f"this is {NAMES[server]}, not {NAMES[provider]}"
    if provider == "openai":
        found = f"this is {NAMES[server]}, of which its own provider knows more"
    severity: Severity = "fail" if works and provider != "openai" else "warn"
    yield Finding(Code.OTHER_SERVER, severity, found, f'set provider = "{server}"', settings.name)


async def check_pool(pool: Pool, ring: KeyRing, seen: Snapshot) -> list[Finding]:
    """What is wrong with our keys, and with what the server lets us do."""
    return [*await _keys(pool, ring, seen), *await _refused(pool)]


async def _keys(pool: Pool, ring: KeyRing, seen: Snapshot) -> list[Finding]:
    """Whether the pool's keys are ours. Joining the pool would tell, but may also seal it."""
    try:
        await pool.sealing.check(ring)
    except PoolKeyMismatch as error:
        return [Finding(Code.KEY_MISMATCH, "fail", error.message)]
    ahead = [key_id for key_id in seen.prepared if ring.find(key_id) is None]
    if ahead:
        found = f"the pool's next key, {', '.join(ahead)}, is prepared and not here"
        advice = (
            "give this worker the keys that `tokenlane key show --reveal` prints where the key is, before "
            "`tokenlane key rotate`"
        )
        return [Finding(Code.KEY_MISSING, "fail", found, advice)]
    if seen.key_id is None and ring.keys and (seen.lanes or seen.clients.known):
        found = f"the pool is in use without a key, and yours is {', '.join(ring.ids)}"
        return [Finding(Code.KEY_MISMATCH, "fail", found, "leave it out")]
    return []


async def _refused(pool: Pool) -> list[Finding]:
    """What a worker does and this server, or this user's rules there, do not allow."""
    refused = list(await rehearse(pool))
    heard = asyncio.Event()
    channel = pool.keys.control(f"check-{secrets.token_hex(8)}")
    try:
        async with open_hub(pool, _PUBLISH_S / 2) as hub, asyncio.timeout(_PUBLISH_S):
            await hub.subscribe(channel, lambda _: heard.set())
            await pool.publish([(channel, b"")])
            await heard.wait()
    except TimeoutError:
        refused.append("the Redis server does not hand on what is published on the pool's channels")
    except LlmError as error:
        refused.append(error.message)
    return [Finding(Code.SERVER_REFUSES, "fail", found) for found in dict.fromkeys(refused)]
