from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.routing.watch.redis_health import RedisFacts, examine_server, slow_commands

INFO = {
    "redis_version": "7.4.1",
    "role": "master",
    "cluster_enabled": "0",
    "maxmemory_policy": "noeviction",
    "maxmemory": "0",
    "used_memory": "1000000",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
}
BUFFER = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"
SETTINGS = {"timeout": "0", "save": "", "client-output-buffer-limit": BUFFER}


def server(
    info: Mapping[str, str] = INFO, settings: Mapping[str, str] = SETTINGS, **more: float
) -> dict[Code, Finding]:
    """The findings for a server, by code; each problem has advice."""
    facts = RedisFacts(info, settings, more.get("round_trip_ms", 0.2), more.get("ahead_ms", 3.0), ())
    findings = list(examine_server(facts))
    assert all(finding.advice or not finding.is_problem for finding in findings)
    return {finding.code: finding for finding in findings}


def test_a_server_as_it_should_be() -> None:
    """Redis 7 with the recommended settings passes every check."""
    assert {finding.severity for finding in server().values()} == {"ok"}


@pytest.mark.parametrize(
    ("code", "info", "severity"),
    [
        (Code.SERVER_VERSION, {"redis_version": "6.2.14"}, "warn"),
        (Code.SERVER_VERSION, {"redis_version": "6.0.16"}, "fail"),
        (Code.SERVER_VERSION, {"redis_version": "8.0-rc1"}, "ok"),
        (Code.SERVER_VERSION, {"redis_version": "7.2.4", "valkey_version": "9.1.0"}, "ok"),
        (Code.SERVER_VERSION, {"redis_version": "7.2.0", "dragonfly_version": "1.2"}, "warn"),
        (Code.SERVER_ROLE, {"role": "slave"}, "fail"),
        (Code.SERVER_ROLE, {"cluster_enabled": "1"}, "fail"),
        (Code.EVICTION, {"maxmemory_policy": "allkeys-lru"}, "warn"),
        (Code.EVICTION, {"maxmemory_policy": "volatile-ttl", "maxmemory": "9000000"}, "fail"),
        (Code.PERSISTENCE, {"aof_enabled": "0"}, "warn"),
        (Code.PERSISTENCE, {"aof_last_write_status": "err"}, "fail"),
        (Code.PERSISTENCE, {"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, "fail"),
    ],
)
def test_what_a_server_says_of_itself(code: Code, info: Mapping[str, str], severity: str) -> None:
    """Each fault is reported by its own check and by no other."""
    findings = server({**INFO, **info})
    assert findings[code].severity == severity
    assert {finding.severity for finding in findings.values() if finding.code != code} == {"ok"}


@pytest.mark.parametrize(
    ("code", "settings", "severity"),
    [
        (Code.TIMEOUT, {"timeout": "300"}, "warn"),
        (Code.PUBSUB_BUFFER, {"client-output-buffer-limit": "normal 0 0 0 pubsub 8388608 2097152 60"}, "warn"),
        (Code.PUBSUB_BUFFER, {"client-output-buffer-limit": "pubsub 1024 1024 60"}, "fail"),
        (Code.PUBSUB_BUFFER, {"client-output-buffer-limit": "pubsub 0 0 0"}, "ok"),
    ],
)
def test_how_a_server_is_set(code: Code, settings: Mapping[str, str], severity: str) -> None:
    """Each harmful setting is reported by its own check."""
    assert server(settings={**SETTINGS, **settings})[code].severity == severity


def test_a_server_that_refuses_to_tell() -> None:
    """Without INFO, CONFIG and SLOWLOG, every check but the round trip is unknown."""
    facts = RedisFacts({}, {}, 0.2, None, None)
    severities = {finding.code: finding.severity for finding in examine_server(facts)}
    assert severities.pop(Code.ROUND_TRIP) == "ok"
    assert set(severities.values()) == {"unknown"}


def test_distance_and_clock() -> None:
    """A distant server and a clock that differs by more than a second, in either direction, are warnings."""
    assert server(round_trip_ms=80)[Code.ROUND_TRIP].severity == "warn"
    assert server(ahead_ms=-5_000)[Code.CLOCK].severity == "warn"
    assert "behind" in server(ahead_ms=-5_000)[Code.CLOCK].observed
    assert "ahead" in server(ahead_ms=5_000)[Code.CLOCK].observed


def entry(command: str, duration_us: int, start_time: int = 0) -> dict[str, object]:
    """An entry of the server's slow log."""
    return {"id": 1, "start_time": start_time, "duration": duration_us, "command": command.encode()}


@pytest.mark.parametrize(
    ("entries", "severity"),
    [
        ((), "ok"),
        ((entry("EVALSHA 0123 1 {main}:", 12_000),), "ok"),
        ((entry("EVALSHA 0123 1 {main}:", 80_000),), "warn"),
        ((entry("eval local", 80_000),), "warn"),
        ((entry("KEYS *", 80_000),), "warn"),
        (None, "unknown"),
        (({"duration": "?"}, 5), "ok"),
    ],
)
def test_slow_commands(entries: Sequence[object] | None, severity: str) -> None:
    """A command that blocked the server for more than 50 ms in the last hour is a warning that names the command."""
    facts = RedisFacts(INFO, SETTINGS, 0.2, 3.0, None if entries is None else slow_commands(list(entries), now_s=60))
    finding = next(it for it in examine_server(facts) if it.code == Code.SLOW_COMMANDS)
    assert finding.severity == severity
    if severity == "warn":
        assert "80 ms" in finding.observed


def test_old_slow_commands() -> None:
    """Commands of more than an hour ago are not reported, and no argument is."""
    assert slow_commands([entry("EVALSHA 0123 secret", 80_000)], now_s=4_000) == ()
    assert "secret" not in str(slow_commands([entry("EVALSHA 0123 secret", 80_000)], now_s=60))
