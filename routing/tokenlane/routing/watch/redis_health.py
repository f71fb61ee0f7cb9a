"""Checks a pool's Redis server: its version, settings, memory, clock and round-trip time.

Managed servers and ACLs refuse commands such as CONFIG. A check whose command is refused has the severity `unknown`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenlane.config.cli.sentences import counted
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.server.sentinel_errors import address_text, sentinel_trouble
from tokenlane.routing.store.server.sentinels import SentinelAnswer, Sentinels

from .finding import Code, Finding, Severity
from .snapshot import Memory

_MEBI = 1024 * 1024
_SLOW_MS, _RECENT_S, _SLOWLOG_ENTRIES = 50, 3600, 128
_NEARLY_FULL, _FULL = 0.9, 0.98
"""Shares of maxmemory. A server that refuses large requests has some memory left, and accepts small ones."""
_TRIES = 5
_SETTINGS = ("timeout", "client-output-buffer-limit", "save")


class SlowCommand(NamedTuple):
    """A command that blocked the server: its name without arguments, which may hold a payload, and its duration."""

    name: str
    duration_ms: float


@dataclass(frozen=True)
class RedisFacts:
    """A server's answers to INFO, to CONFIG GET for some settings, and to TIME.

    `round_trip_ms`: the fastest of five round trips. `ahead_ms`: how far the server's clock is ahead of this host's,
    accurate to half a round trip. `slow`: slow commands of the last hour; None if the server refuses to tell.
    """

    info: Mapping[str, str]
    settings: Mapping[str, str]
    round_trip_ms: float
    ahead_ms: float | None
    slow: tuple[SlowCommand, ...] | None


async def ask_server(pool: Pool) -> RedisFacts:
    """Send INFO, CONFIG GET and TIME to the pool's server.

    Raises:
        PoolUnavailable: the server does not answer.
    """
    info = _texts(await pool.commands.ask_about("INFO"))
    settings: dict[str, str] = {}
    for name in _SETTINGS:
        settings |= _texts(await pool.commands.ask_about("CONFIG GET", name))
    round_trip_ms, ahead_ms = float("inf"), None
    clock = asyncio.get_running_loop().time
    for _ in range(_TRIES):
        start, here = clock(), time.time()
        server_time = await pool.commands.ask_about("TIME")
        took = clock() - start
        if 1000 * took < round_trip_ms:
            round_trip_ms, ahead_ms = 1000 * took, None
            if isinstance(server_time, tuple):
                ahead_ms = 1000 * (server_time[0] + server_time[1] / 1e6 - here - took / 2)
    log, now = await pool.commands.ask_about("SLOWLOG GET", str(_SLOWLOG_ENTRIES)), time.time()
    slow = slow_commands(log, now + (ahead_ms or 0) / 1000) if isinstance(log, list) else None
    return RedisFacts(info, settings, round_trip_ms, ahead_ms, slow)


def slow_commands(log: Sequence[object], now_s: float) -> tuple[SlowCommand, ...]:
    """The commands in a server's SLOWLOG that took more than 50 ms in the last hour.

    Args:
        log: the entries as redis-py parses them.
        now_s: the time by the server's clock, in seconds since 1970.
    """
    slow = []
    for entry in log:
        match entry:
            case {"start_time": int(began), "duration": int(us), "command": bytes(command)} if (
                us > 1000 * _SLOW_MS and now_s - began < _RECENT_S
            ):
                name = command.split(b" ", 1)[0].decode("ascii", "replace").upper()
                slow.append(SlowCommand(name, us / 1000))
    return tuple(slow)


async def examine_sentinels(pool: Pool) -> tuple[Finding, ...]:
    """Ask each Sentinel for the pool's primary: a finding about all Sentinels, and one for each with a problem. Empty
    if the pool's URL names no Sentinels."""
    sentinels = pool.server.sentinels
    return () if sentinels is None else tuple(judge_sentinels(sentinels, await sentinels.ask_all()))


def judge_sentinels(sentinels: Sentinels, answers: Sequence[SentinelAnswer]) -> Iterator[Finding]:
    """Judge the answers of Sentinels, which were asked for a service's primary."""
    code, primary = Code.SENTINELS, sentinels.address
    agreeing = [answer for answer in answers if answer.primary == primary and primary is not None]
    of_all = f"{len(agreeing)} of {counted(len(answers), 'Sentinel', 'Sentinels')}"
    where = address_text(primary) if primary else "unknown"
    observed = f"the primary of {sentinels.url.service!r} is {where}, named by {of_all}"
    if 2 * len(agreeing) <= len(answers):
        yield Finding(code, "fail", observed, "start the Sentinels that do not answer: most of them must agree")
    elif any({"s_down", "o_down"} & set(answer.flags) for answer in agreeing):
        yield Finding(code, "fail", f"{observed}, and considered down", "check the primary and its network")
    elif not any(answer.replicas for answer in agreeing):
        yield Finding(code, "warn", f"{observed}, without a replica", "start a replica, which can take its place")
    elif len(answers) < 3:
        advice = "run at least three Sentinels on different hosts, and name all of them in the URL"
        yield Finding(code, "warn", observed, advice)
    else:
        yield Finding(code, "ok", observed)
    for answer in answers:
        subject = address_text(answer.sentinel)
        if trouble := sentinel_trouble(answer, sentinels):
            yield Finding(code, "warn", trouble, subject=subject)
        elif answer.primary is not None and answer not in agreeing:
            other = f"it names another primary, {address_text(answer.primary)}"
            yield Finding(
                code, "warn", other, "check again in 10 s; if it stays, check this Sentinel's network", subject
            )


def _texts(reply: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in reply.items()} if isinstance(reply, dict) else {}


def examine_server(server: RedisFacts) -> Iterator[Finding]:
    """Judge the server's answers. A check that passes yields a finding, too."""
    info, settings = server.info, server.settings
    yield _version(info)
    yield _role(info)
    yield _eviction(info)
    yield _persistence(info, settings)
    yield _idle_timeout(settings)
    yield _pubsub_buffer(settings)
    yield _round_trip(server.round_trip_ms)
    yield _clock(server.ahead_ms)
    yield _slow_commands(server.slow)


def _denied(code: Code, advice: str = "") -> Finding:
    return Finding(code, "unknown", "the server refuses to tell (an ACL, or a managed server)", advice)


def _set(setting: str) -> str:
    return f"run `CONFIG SET {setting}`, and make the same change in the server's configuration file"


def _version(info: Mapping[str, str]) -> Finding:
    code, advice = Code.SERVER_VERSION, "use Redis 7 or newer, or Valkey"
    if "valkey_version" in info:
        return Finding(code, "ok", f"Valkey {info['valkey_version']}")
    text = info.get("redis_version")
    if text is None:
        return _denied(code)
    other = next((name for name in ("dragonfly", "keydb") if f"{name}_version" in info), None)
    if other is not None:
        return Finding(code, "warn", f"{other} {info[f'{other}_version']}", advice)
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if numbers >= (7,):
        return Finding(code, "ok", f"Redis {text}")
    return Finding(code, "warn" if numbers >= (6, 2) else "fail", f"Redis {text}", advice)


def _role(info: Mapping[str, str]) -> Finding:
    code = Code.SERVER_ROLE
    if info.get("cluster_enabled") == "1":
        return Finding(
            code, "fail", "the server is part of a Redis Cluster", "use a server that is not part of a cluster"
        )
    if info.get("role") in ("slave", "replica"):
        return Finding(code, "fail", "the server is a replica", "use the URL of its primary")
    return Finding(code, "ok", "the server is a primary") if "role" in info else _denied(code)


def _eviction(info: Mapping[str, str]) -> Finding:
    code, policy = Code.EVICTION, info.get("maxmemory_policy")
    if policy is None:
        return _denied(code, "make sure that maxmemory-policy is noeviction")
    if policy == "noeviction":
        return Finding(code, "ok", policy)
    advice = _set("maxmemory-policy noeviction")
    if info.get("maxmemory", "0") == "0":
        return Finding(code, "warn", f"{policy}, no memory limit", advice)
    return Finding(code, "fail", f"{policy}, with a memory limit", advice)


def judge_memory(memory: Memory | None) -> Finding:
    """Judge whether the server has memory left for new requests. `memory`: None if the server does not tell."""
    code = Code.MEMORY
    if memory is None:
        return _denied(code)
    used = f"{memory.used / _MEBI:.0f}"
    if memory.limit == 0:
        return Finding(code, "ok", f"{used} MiB used, no limit set")
    observed = f"the Redis server uses {used} of {memory.limit / _MEBI:.0f} MiB (maxmemory)"
    if memory.used > _FULL * memory.limit:
        advice = "raise maxmemory, or lower the policy's depth"
        return Finding(code, "fail", f"{observed}, so it refuses new requests", advice)
    if memory.used > _NEARLY_FULL * memory.limit:
        return Finding(code, "warn", observed, "raise maxmemory")
    return Finding(code, "ok", observed)


def _persistence(info: Mapping[str, str], settings: Mapping[str, str]) -> Finding:
    code, advice = Code.PERSISTENCE, "set appendonly yes and appendfsync everysec"
    if "aof_enabled" not in info:
        return _denied(code, advice)
    if info["aof_enabled"] == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(
                code,
                "fail",
                "the append-only file cannot be written",
                "read the server's log, and check whether its disk is full",
            )
        return Finding(code, "ok", "every write goes to an append-only file")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Finding(
            code, "fail", "the last snapshot failed, so the server may refuse writes", "read the server's log"
        )
    if "save" not in settings:
        return Finding(code, "warn", "the server writes no append-only file", advice)
    return Finding(
        code,
        "warn",
        "the server writes snapshots only" if settings["save"] else "the server writes nothing to disk",
        advice,
    )


def _idle_timeout(settings: Mapping[str, str]) -> Finding:
    code = Code.TIMEOUT
    if "timeout" not in settings:
        return _denied(code, "make sure that timeout is 0")
    if settings["timeout"] == "0":
        return Finding(code, "ok", "idle connections are kept")
    return Finding(code, "warn", f"idle connections are closed after {settings['timeout']} s", _set("timeout 0"))


def _pubsub_buffer(settings: Mapping[str, str]) -> Finding:
    code, words = Code.PUBSUB_BUFFER, settings.get("client-output-buffer-limit", "").split()
    if "pubsub" not in words[:-3]:
        return _denied(code, "make sure that client-output-buffer-limit for pubsub is at least 32mb 8mb 60")
    hard, soft, seconds = (int(word) for word in words[words.index("pubsub") + 1 :][:3])
    observed = f"{_size(hard)}, or {_size(soft)} for {seconds} s"
    if any(limit and limit < least * _MEBI for limit, least in ((hard, 32), (soft, 8))):
        severity: Severity = "fail" if 0 < hard < _MEBI else "warn"
        return Finding(code, severity, observed, _set('client-output-buffer-limit "pubsub 256mb 64mb 60"'))
    return Finding(code, "ok", observed)


def _size(limit: int) -> str:
    return f"{limit / _MEBI:.3g} MiB" if limit else "no limit"


def _round_trip(round_trip_ms: float) -> Finding:
    observed = f"a round trip from this host takes {round_trip_ms:.1f} ms"
    if round_trip_ms > 50:
        return Finding(Code.ROUND_TRIP, "warn", observed, "run agents and workers in the same network as the server")
    return Finding(Code.ROUND_TRIP, "ok", observed)


def _clock(ahead_ms: float | None) -> Finding:
    if ahead_ms is None:
        return _denied(Code.CLOCK)
    seconds = ahead_ms / 1000
    if abs(seconds) <= 1:
        return Finding(Code.CLOCK, "ok", "the server's clock and this host's differ by less than a second")
    observed = f"the server is {abs(seconds):.1f} s {'ahead of' if seconds >= 0 else 'behind'} this host"
    return Finding(Code.CLOCK, "warn", observed, "synchronise both clocks with NTP")


def _slow_commands(slow: tuple[SlowCommand, ...] | None) -> Finding:
    code = Code.SLOW_COMMANDS
    if slow is None:
        return _denied(code)
    if not slow:
        return Finding(code, "ok", f"no command took more than {_SLOW_MS} ms in the last hour")
    slowest = max(slow, key=lambda command: command.duration_ms)
    number = counted(len(slow), "command", "commands")
    observed = (
        f"{number} took more than {_SLOW_MS} ms in the last hour; the slowest, {slowest.name}, took "
        f"{slowest.duration_ms:.0f} ms"
    )
    advice = (
        "if it is EVALSHA, a script of tokenlane, give the server a faster core, or the pool a server of its own; "
        "other commands come from other programs, whose addresses `redis-cli SLOWLOG GET` shows"
    )
    return Finding(code, "warn", observed, advice)
