"""What is wrong with the Redis server a pool lives on: its version, its settings, its clock, how far it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .finding import Code, Finding
from .redis_facts import ServerFacts

_MEBI = 1024 * 1024


def examine_server(server: ServerFacts) -> Iterator[Finding]:
    """Everything that the server tells; what is well, too."""
    info, settings = server.info, server.settings
    yield _version(info)
    yield _role(info)
    yield _eviction(info)
    yield _memory(info)
    yield _persistence(info, settings)
    yield _idle_timeout(settings)
    yield _pubsub_buffer(settings)
    yield _distance(server)
    yield _skew(server)


def _untold(code: Code, advice: str = "") -> Finding:
    return Finding(code, "unknown", "the server does not let this user ask (ACL, or a managed server)", advice)


def _version(info: Mapping[str, str]) -> Finding:
    code, advice = Code.SERVER_VERSION, "use Redis 7 or newer, or Valkey"
    if "valkey_version" in info:
        return Finding(code, "ok", f"Valkey {info['valkey_version']}")
    text = info.get("redis_version")
    if text is None:
        return _untold(code)
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
        return Finding(code, "fail", "a Redis Cluster", "use a server that is not part of a cluster")
    if info.get("role") in ("slave", "replica"):
        return Finding(code, "fail", "a replica", "name the primary in the URL")
    return Finding(code, "ok", "a primary") if "role" in info else _untold(code)


def _eviction(info: Mapping[str, str]) -> Finding:
    code, policy = Code.EVICTION, info.get("maxmemory_policy")
    if policy is None:
        return _untold(code, "make sure that it is noeviction")
    if policy == "noeviction":
        return Finding(code, "ok", policy)
    advice = "CONFIG SET maxmemory-policy noeviction, and in its configuration file"
    if info.get("maxmemory", "0") == "0":
        return Finding(code, "warn", f"{policy}, without a limit of memory", advice)
    return Finding(code, "fail", f"{policy}, with a limit of memory", advice)


def _memory(info: Mapping[str, str]) -> Finding:
    code = Code.MEMORY
    if "used_memory" not in info:
        return _untold(code)
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", "0"))
    if limit == 0:
        return Finding(code, "ok", f"{used / _MEBI:.0f} MiB used, no limit set")
    found = f"{used / _MEBI:.0f} of {limit / _MEBI:.0f} MiB used"
    if used >= limit:
        return Finding(code, "fail", found, "raise maxmemory, or lower the policy's depth")
    return Finding(code, "warn", found, "raise maxmemory") if used > 0.9 * limit else Finding(code, "ok", found)


def _persistence(info: Mapping[str, str], settings: Mapping[str, str]) -> Finding:
    code, advice = Code.PERSISTENCE, "appendonly yes, appendfsync everysec"
    if "aof_enabled" not in info:
        return _untold(code, f"make sure that it has: {advice}")
    if info["aof_enabled"] == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(code, "fail", "the append-only file cannot be written", "see its log; is the disk full?")
        return Finding(code, "ok", "an append-only file")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return Finding(code, "fail", "the last snapshot failed: the server may refuse to write", "see its log")
    if "save" not in settings:
        return Finding(code, "warn", "no append-only file", advice)
    return Finding(code, "warn", "snapshots only" if settings["save"] else "nothing is written down", advice)


def _idle_timeout(settings: Mapping[str, str]) -> Finding:
    code = Code.TIMEOUT
    if "timeout" not in settings:
        return _untold(code, "make sure that it is 0")
    if settings["timeout"] == "0":
        return Finding(code, "ok", "idle connections stay")
    return Finding(code, "warn", f"{settings['timeout']} s", "CONFIG SET timeout 0, and in its configuration file")


def _pubsub_buffer(settings: Mapping[str, str]) -> Finding:
    code, words = Code.PUBSUB_BUFFER, settings.get("client-output-buffer-limit", "").split()
    if "pubsub" not in words[:-3]:
        return _untold(code, "make sure that it is at least 32mb 8mb 60")
    hard, soft, seconds = (int(word) for word in words[words.index("pubsub") + 1 :][:3])
    found = f"{_size(hard)}, or {_size(soft)} for {seconds} s"
    if any(limit and limit < least * _MEBI for limit, least in ((hard, 32), (soft, 8))):
        advice = 'CONFIG SET client-output-buffer-limit "pubsub 256mb 64mb 60", and in its configuration file'
        return Finding(code, "fail" if 0 < hard < _MEBI else "warn", found, advice)
    return Finding(code, "ok", found)


def _size(limit: int) -> str:
    return f"{limit / _MEBI:.3g} MiB" if limit else "no limit"


def _distance(server: ServerFacts) -> Finding:
    found = f"{server.round_trip_ms:.1f} ms from this host"
    if server.round_trip_ms > 50:
        return Finding(Code.ROUND_TRIP, "warn", found, "bring agents, workers and server closer together")
    return Finding(Code.ROUND_TRIP, "ok", found)


def _skew(server: ServerFacts) -> Finding:
    if server.ahead_ms is None:
        return _untold(Code.CLOCK)
    seconds = server.ahead_ms / 1000
    if abs(seconds) <= 1:
        return Finding(Code.CLOCK, "ok", "within a second of this host's")
    found = f"the server is {abs(seconds):.1f} s {'ahead of' if seconds >= 0 else 'behind'} this host"
    return Finding(Code.CLOCK, "warn", found, "let NTP set the clocks of both")
