"""What is wrong with a pool's surroundings: its server's settings, its clock, versions, and whether lanes are reached.

Every check is a plain function of facts; `examine` gathers those and runs them all.
"""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tokenlane.config.host.sockets import socket_of
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .health import back_end, shared_back_ends
from .server import ServerFacts, ask_server
from .snapshot import LaneStatus, Snapshot

__all__ = [
    "Check",
    "Status",
    "check_back_ends",
    "check_environment",
    "check_lanes",
    "check_pool",
    "check_server",
    "check_versions",
    "examine",
]

Status = Literal["ok", "warn", "fail", "unknown"]
Reached = Literal["answers", "refuses", "not from here", "is no URL"]

_CONNECT_S = 2.0
_MEBI = 1024 * 1024
_ONE_VERSION = "install one version of tokenlane everywhere"
_DENIED = "the server does not let this user ask (ACL, or a managed server)"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `found`: what is; `means`: why it matters; `advice`: what to do, if anything."""

    name: str
    status: Status
    found: str
    means: str
    advice: str = ""


async def examine(pool: Pool) -> tuple[Check, ...]:
    """Look at everything.

    Raises:
        PoolUnavailable: the pool does not answer.
    """
    server = await ask_server(pool)
    seen = await take_snapshot(pool)
    reached = await _reach([lane for lane in seen.without_fallback if lane.state != "left"])
    return (
        *check_server(server),
        *check_pool(seen),
        *check_lanes(seen, reached, socket.gethostname()),
        *check_back_ends(seen),
        *check_versions(seen),
    )


def check_server(server: ServerFacts) -> Iterator[Check]:
    """The checks of the Redis server."""
    info, settings = server.info, server.settings
    yield _software(info)
    yield _place(info)
    yield _eviction(info)
    yield _memory(info)
    yield _persistence(info, settings)
    yield _idle_timeout(settings)
    yield _pubsub_buffer(settings)
    yield _distance(server)
    yield _skew(server)


def _software(info: Mapping[str, str]) -> Check:
    means = "the scripts need Redis 6.2 and are tested with Redis 7 and Valkey"
    advice = "use Redis 7 or newer, or Valkey"
    name = "server version"
    if "valkey_version" in info:
        return Check(name, "ok", f"Valkey {info['valkey_version']}", means)
    text = info.get("redis_version")
    if text is None:
        return Check(name, "unknown", _DENIED, means)
    other = next(
        (key for key in info if key.endswith("_version") and key.split("_")[0] in ("dragonfly", "keydb")), None
    )
    if other is not None:
        return Check(name, "warn", f"{other.removesuffix('_version')} {info[other]}", means, advice)
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    status: Status = "ok" if numbers >= (7,) else "warn" if numbers >= (6, 2) else "fail"
    return Check(name, status, f"Redis {text}", means, "" if status == "ok" else advice)


def _place(info: Mapping[str, str]) -> Check:
    name, means = "server role", "a pool is written to, and lives on one primary"
    if info.get("cluster_enabled") == "1":
        return Check(name, "fail", "a Redis Cluster", means, "use a server that is not part of a cluster")
    if info.get("role") in ("slave", "replica"):
        return Check(name, "fail", "a replica", means, "name the primary in the URL")
    return Check(name, "ok", "a primary", means) if "role" in info else Check(name, "unknown", _DENIED, means)


def _eviction(info: Mapping[str, str]) -> Check:
    name, policy = "maxmemory-policy", info.get("maxmemory_policy")
    means = "a server that evicts keys when it is full loses accepted requests; with noeviction it refuses new ones"
    if policy is None:
        return Check(name, "unknown", _DENIED, means, "make sure that it is noeviction")
    if policy == "noeviction":
        return Check(name, "ok", policy, means)
    status: Status = "warn" if info.get("maxmemory", "0") == "0" else "fail"
    found = f"{policy}, {'without' if status == 'warn' else 'with'} a limit of memory"
    return Check(name, status, found, means, "CONFIG SET maxmemory-policy noeviction, and in its configuration file")


def _memory(info: Mapping[str, str]) -> Check:
    name, means = "memory", "a server without memory refuses new requests"
    if "used_memory" not in info:
        return Check(name, "unknown", _DENIED, means)
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", "0"))
    if limit == 0:
        return Check(name, "ok", f"{used / _MEBI:.0f} MiB used, no limit set", means)
    found = f"{used / _MEBI:.0f} of {limit / _MEBI:.0f} MiB used"
    if used >= limit:
        return Check(name, "fail", found, means, "raise maxmemory, or lower the policy's depth")
    return Check(
        name, "warn" if used > 0.9 * limit else "ok", found, means, "raise maxmemory" if used > 0.9 * limit else ""
    )


def _persistence(info: Mapping[str, str], settings: Mapping[str, str]) -> Check:
    name = "persistence"
    means = "what the server does not write down, a restart loses: clients that live send it again, others' is gone"
    advice = "appendonly yes, appendfsync everysec"
    if "aof_enabled" not in info:
        return Check(name, "unknown", _DENIED, means, f"make sure that it has: {advice}")
    if info["aof_enabled"] == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Check(
                name, "fail", "the append-only file cannot be written", means, "see its log; is the disk full?"
            )
        return Check(name, "ok", "an append-only file", means)
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Check(name, "fail", "the last snapshot failed: the server may refuse to write", means, "see its log")
    if "save" not in settings:
        return Check(name, "warn", "no append-only file", means, advice)
    return Check(name, "warn", "snapshots only" if settings["save"] else "nothing is written down", means, advice)


def _idle_timeout(settings: Mapping[str, str]) -> Check:
    name, means = "timeout", "a server that closes idle connections makes clients connect again, in the middle of work"
    if "timeout" not in settings:
        return Check(name, "unknown", _DENIED, means, "make sure that it is 0")
    if settings["timeout"] == "0":
        return Check(name, "ok", "idle connections stay", means)
    return Check(name, "warn", f"{settings['timeout']} s", means, "CONFIG SET timeout 0, and in its configuration file")


def _pubsub_buffer(settings: Mapping[str, str]) -> Check:
    name = "pub/sub buffer"
    means = "a client that reads slower than its answers come is cut off beyond this, and asks for what it lost"
    words = settings.get("client-output-buffer-limit", "").split()
    if "pubsub" not in words[:-3]:
        return Check(name, "unknown", _DENIED, means, "make sure that it is at least 32mb 8mb 60")
    hard, soft, seconds = (int(word) for word in words[words.index("pubsub") + 1 :][:3])
    found = f"{_size(hard)}, or {_size(soft)} for {seconds} s"
    if any(limit and limit < least * _MEBI for limit, least in ((hard, 32), (soft, 8))):
        advice = 'CONFIG SET client-output-buffer-limit "pubsub 256mb 64mb 60", and in its configuration file'
        return Check(name, "fail" if 0 < hard < _MEBI else "warn", found, means, advice)
    return Check(name, "ok", found, means)


def _size(limit: int) -> str:
    return f"{limit / _MEBI:.3g} MiB" if limit else "no limit"


def _distance(server: ServerFacts) -> Check:
    name, means = "round trip", "every step of a request is one; the first token waits for about five of them"
    found = f"{server.round_trip_ms:.1f} ms from this host"
    if server.round_trip_ms > 50:
        return Check(name, "warn", found, means, "bring agents, workers and server closer together")
    return Check(name, "ok", found, means)


def _skew(server: ServerFacts) -> Check:
    name, means = "clock", "all times of a pool are the server's; logs and spans of hosts with another time do not fit"
    if server.ahead_ms is None:
        return Check(name, "unknown", _DENIED, means)
    seconds = server.ahead_ms / 1000
    found = f"the server is {abs(seconds):.1f} s {'ahead of' if seconds >= 0 else 'behind'} this host"
    if abs(seconds) > 1:
        return Check(name, "warn", found, means, "let NTP set the clocks of both")
    return Check(name, "ok", "within a second of this host's", means)


def check_pool(seen: Snapshot) -> Iterator[Check]:
    """The checks of the pool itself."""
    means = "without a key, who can read the server's memory or disk can read the prompts of live requests"
    if seen.key_id is None:
        yield Check("key id", "warn", "none", means, "give agents and workers TOKENLANE_POOL_KEY: `tokenlane key new`")
    else:
        yield Check("key id", "ok", seen.key_id, means)
    yield from _prepared(seen)
    means = "routers give requests to lanes"
    if seen.routers:
        yield Check("routers", "ok", f"{len(seen.routers)}", means)
    else:
        yield Check("routers", "fail", "none", means, "start a worker, or `tokenlane router`")
    means = "who has not seen the newest policy goes by an older one"
    if seen.lagging:
        advice = "look again in 10 s; those that still lag are frozen or cut off: start them again"
        yield Check("policy", "warn", f"revision {seen.revision}, not seen by {', '.join(seen.lagging)}", means, advice)
    else:
        yield Check("policy", "ok", f"revision {seen.revision}", means)
    if seen.unknown:
        means = "another version of tokenlane, or something else, has written what this command cannot read"
        yield Check("not understood", "warn", "; ".join(seen.unknown), means, _ONE_VERSION)


def _prepared(seen: Snapshot) -> Iterator[Check]:
    means = "once it seals, only workers that have it take new work"
    for key_id in seen.prepared:
        lacking = seen.without_key(key_id)
        old = [worker.name for worker in lacking if worker.keys is None]
        without = [worker.name for worker in lacking if worker.keys is not None]
        parts = ([f"{', '.join(without)} without it"] if without else []) + (
            [f"{', '.join(old)} too old to say"] if old else []
        )
        if parts:
            advice = "start them again with the keys that `tokenlane key show --reveal` prints where the key is"
            yield Check("prepared key", "warn", f"{key_id}, {'; '.join(parts)}", means, advice)
        else:
            yield Check("prepared key", "ok", f"{key_id}, every worker has it: `tokenlane key rotate`", means)


def check_lanes(seen: Snapshot, reached: Mapping[str, Reached], host: str) -> Iterator[Check]:
    """The checks of the lanes: their workers' beats, and their endpoints from this host."""
    means = "a lane is served by workers that beat; only they need to reach its endpoint"
    if not seen.without_fallback:
        yield Check("lanes", "fail", "none", means, "start `tokenlane worker` beside a model server")
    for lane in seen.without_fallback:
        name = f"lane {lane.name}"
        workers = f"{lane.state}, last beat {lane.beat_ms / 1000:.0f} s ago"
        here = reached.get(lane.name, "not from here")
        found = f"{workers}; {lane.endpoint} {f'{here} from here' if here in ('answers', 'refuses') else here}"
        if lane.why and lane.state in ("down", "loading", "degraded"):
            status: Status = "fail" if lane.state == "down" else "warn"
            advice = f"see that its model server runs, on {_hosts(lane)}"
            yield Check(name, status, f"{found}; {back_end(lane)}", means, advice)
        elif lane.state in ("gone", "down"):
            advice = f"start its worker again, on {_hosts(lane)}" if lane.state == "gone" else "see its worker's log"
            yield Check(name, "fail", found, means, advice)
        elif lane.lacks_key:
            advice = "start its worker again with the keys that `tokenlane key show --reveal` prints where the key is"
            yield Check(name, "fail", f"{found}; its worker lacks a key of the pool's", means, advice)
        elif here == "is no URL":
            yield Check(name, "warn", found, means, f"{_ONE_VERSION}; nobody can tell where this lane's server is")
        elif here == "refuses" and host in {worker.host for worker in lane.workers}:
            yield Check(name, "fail", found, means, "its worker runs on this host: is the model server running?")
        else:
            yield Check(name, "ok", found, means)


def check_back_ends(seen: Snapshot) -> Iterator[Check]:
    """The check for back ends that several lanes serve."""
    means = "each lane gives its back end as much as its own limit says"
    for shared in shared_back_ends(seen):
        yield Check("back ends", "warn", shared.message, means, "see `tokenlane status` for the lanes' limits")


def _hosts(lane: LaneStatus) -> str:
    hosts = sorted({worker.host for worker in lane.workers if worker.host})
    place = _place_of(lane.endpoint)
    return " or ".join(hosts) or (place and place[0]) or "its host"


def check_versions(seen: Snapshot) -> Iterator[Check]:
    """The checks of the workers' versions, beside this command's own."""
    means = "workers of one pool are best of one version; agents may be older"
    ours = own_versions()
    yield Check("versions here", "ok", _versions(ours), means)
    for worker in (worker for lane in seen.without_fallback for worker in lane.workers if worker.state != "silent"):
        name, theirs = f"versions {worker.name}", worker.versions
        if not theirs:
            yield Check(name, "unknown", "it has not told yet", means, "look again in 10 s")
        elif theirs.get("tokenlane") != ours.get("tokenlane"):
            yield Check(name, "warn", _versions(theirs), means, _ONE_VERSION)
        else:
            yield Check(name, "ok", _versions(theirs), means)


def check_environment(unknown: Mapping[str, str]) -> Iterator[Check]:
    """The check of this command's own variables: those that nothing reads, each with what may have been meant."""
    means = "a variable with a wrong name changes nothing, and nobody says so"
    if unknown:
        found = "; ".join(f"nothing reads {variable}.{near}" for variable, near in unknown.items())
        advice = "correct or unset them, if they are meant for tokenlane; `tokenlane config` shows what holds"
        yield Check("environment", "warn", found, means, advice)
    else:
        yield Check("environment", "ok", "every variable TOKENLANE_… is one that is read", means)


def own_versions() -> dict[str, str]:
    """The versions of what this process runs on; arq is missing where no worker is installed."""
    found = {"python": platform.python_version()}
    for name in ("tokenlane", "arq", "redis"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in sorted(versions.items(), key=lambda it: it[0] != "tokenlane"))


async def _reach(lanes: list[LaneStatus]) -> dict[str, Reached]:
    found = await asyncio.gather(*(_connect(lane.endpoint) for lane in lanes))
    return {lane.name: reached for lane, reached in zip(lanes, found, strict=True)}


async def _connect(endpoint: str) -> Reached:
    """Whether anything accepts a connection there. This host's own loopback and sockets were announced by the host's
    name."""
    place = _place_of(endpoint)
    if place is None:
        return "is no URL"
    announced, port = place
    own = announced == socket.gethostname().lower()
    if (path := socket_of(endpoint)) is not None:
        return await _connect_to(path) if own else "not from here"
    answers: set[Reached] = set()
    for host in (announced, "127.0.0.1", "::1") if own else (announced,):
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return "answers"
        except ConnectionRefusedError:
            answers.add("refuses")
        except (OSError, ValueError, TimeoutError):  # ValueError: a host that no name server can be asked for
            continue
    return "refuses" if "refuses" in answers else "not from here"


def _place_of(endpoint: str) -> tuple[str, int] | None:
    """The host and port of what a worker has announced; None if it is no URL with a host."""
    try:
        parts = urlsplit(endpoint)
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


async def _connect_to(path: Path) -> Reached:
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_unix_connection(path)
    except (ConnectionRefusedError, FileNotFoundError):
        return "refuses"
    except (OSError, ValueError, TimeoutError):
        return "not from here"
    writer.close()
    return "answers"
