from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.unit.routing.watch.test_health import LANE, WELL

from tokenlane.routing.contract.errors import PoolKeyMismatch, ProviderDown
from tokenlane.routing.watch.doctor import (
    Check,
    Reached,
    check_back_ends,
    check_environment,
    check_lanes,
    check_pool,
    check_server,
    check_versions,
    own_versions,
)
from tokenlane.routing.watch.server import ServerFacts
from tokenlane.routing.watch.snapshot import LaneState, LastError, WorkerStatus

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
WORKER = WorkerStatus("w1", "gpu0", LaneState.UP, "gpuhost", own_versions(), 0, 100, 0, None)


def server(info: Mapping[str, str] = INFO, settings: Mapping[str, str] = SETTINGS, **more: float) -> dict[str, Check]:
    """The checks of a server, by name; each that is not well says what to do."""
    facts = ServerFacts(info, settings, more.get("round_trip_ms", 0.2), more.get("ahead_ms", 3.0))
    checks = list(check_server(facts))
    assert all(check.means and (check.advice or check.status in ("ok", "unknown")) for check in checks)
    return {check.name: check for check in checks}


def test_a_server_as_it_should_be() -> None:
    """Redis 7 with the recommended settings passes every check."""
    assert {check.status for check in server().values()} == {"ok"}


@pytest.mark.parametrize(
    ("name", "info", "status"),
    [
        ("server version", {"redis_version": "6.2.14"}, "warn"),
        ("server version", {"redis_version": "6.0.16"}, "fail"),
        ("server version", {"redis_version": "8.0-rc1"}, "ok"),
        ("server version", {"redis_version": "7.2.4", "valkey_version": "9.1.0"}, "ok"),
        ("server version", {"redis_version": "7.2.0", "dragonfly_version": "1.2"}, "warn"),
        ("server role", {"role": "slave"}, "fail"),
        ("server role", {"cluster_enabled": "1"}, "fail"),
        ("maxmemory-policy", {"maxmemory_policy": "allkeys-lru"}, "warn"),
        ("maxmemory-policy", {"maxmemory_policy": "volatile-ttl", "maxmemory": "9000000"}, "fail"),
        ("memory", {"maxmemory": "2000000"}, "ok"),
        ("memory", {"maxmemory": "1050000"}, "warn"),
        ("memory", {"maxmemory": "900000"}, "fail"),
        ("persistence", {"aof_enabled": "0"}, "warn"),
        ("persistence", {"aof_last_write_status": "err"}, "fail"),
        ("persistence", {"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, "fail"),
    ],
)
def test_what_a_server_says_of_itself(name: str, info: Mapping[str, str], status: str) -> None:
    """Each fact that is not as it should be is told by its own check and by no other."""
    checks = server({**INFO, **info})
    assert checks[name].status == status
    assert {check.status for check in checks.values() if check.name != name} == {"ok"}


@pytest.mark.parametrize(
    ("name", "settings", "status"),
    [
        ("timeout", {"timeout": "300"}, "warn"),
        ("pub/sub buffer", {"client-output-buffer-limit": "normal 0 0 0 pubsub 8388608 2097152 60"}, "warn"),
        ("pub/sub buffer", {"client-output-buffer-limit": "pubsub 1024 1024 60"}, "fail"),
        ("pub/sub buffer", {"client-output-buffer-limit": "pubsub 0 0 0"}, "ok"),
    ],
)
def test_how_a_server_is_set(name: str, settings: Mapping[str, str], status: str) -> None:
    """Each setting that hurts is told by its check."""
    assert server(settings={**SETTINGS, **settings})[name].status == status


def test_what_a_server_does_not_tell_is_unknown() -> None:
    """Without INFO and CONFIG nothing is claimed, and nothing breaks."""
    facts = ServerFacts({}, {}, 0.2, None)
    statuses = {check.name: check.status for check in check_server(facts)}
    assert statuses.pop("round trip") == "ok"
    assert set(statuses.values()) == {"unknown"}


def test_distance_and_clock() -> None:
    """A far server and a clock that is off by more than a second are told, in either direction."""
    assert server(round_trip_ms=80)["round trip"].status == "warn"
    assert server(ahead_ms=-5_000)["clock"].status == "warn"
    assert "behind" in server(ahead_ms=-5_000)["clock"].found
    assert "ahead" in server(ahead_ms=5_000)["clock"].found


def test_the_pool() -> None:
    """No key, a policy that was not seen by all and what is not understood are warnings, no router is a failure."""
    well = replace(WELL, key_id="0123")
    assert [check.status for check in check_pool(well)] == ["ok", "ok", "ok"]
    ill = replace(WELL, routers=(), lagging=("w1",), unknown=("a queue",))
    assert [(check.name, check.status) for check in check_pool(ill)] == [
        ("key id", "warn"), ("routers", "fail"), ("policy", "warn"), ("not understood", "warn")]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "reached", "host", "status"),
    [
        ("up", "answers", "here", "ok"),
        ("up", "refuses", "here", "ok"),
        ("up", "refuses", "gpuhost", "fail"),
        ("up", "not from here", "gpuhost", "ok"),
        ("draining", "answers", "here", "ok"),
        ("left", "not from here", "here", "ok"),
        ("gone", "answers", "here", "fail"),
        ("down", "answers", "here", "fail"),
    ],
)
def test_lanes(state: str, reached: Reached, host: str, status: str) -> None:
    """A lane fails without a live worker, and if nothing answers on its own worker's host; not for being elsewhere."""
    lane = replace(LANE, state=LaneState(state), workers=(WORKER,))
    (check,) = check_lanes(replace(WELL, lanes=(lane,)), {"gpu0": reached}, host)
    assert check.status == status
    assert bool(check.advice) == (status == "fail")


def test_a_lane_whose_worker_lacks_a_key() -> None:
    """A worker that withdrew for want of a key fails the check, one that is being stopped after an error does not."""
    for code, status in ((PoolKeyMismatch.code, "fail"), (ProviderDown.code, "ok")):
        lane = replace(LANE, state=LaneState.DRAINING, workers=(WORKER,), error=LastError(code, 9_000))
        (check,) = check_lanes(replace(WELL, lanes=(lane,)), {"gpu0": "answers"}, "here")
        assert (check.status, "key" in check.advice) == (status, status == "fail")


def test_no_lane() -> None:
    """A pool without lanes fails that check."""
    assert [check.status for check in check_lanes(replace(WELL, lanes=()), {}, "here")] == ["fail"]


def test_versions() -> None:
    """A worker of another version is a warning, one that has not told its versions is unknown."""
    old = replace(WORKER, name="w2", versions={"tokenlane": "0.0.1"})
    new = replace(WORKER, name="w3", versions={})
    gone = replace(WORKER, name="w4", state="silent", versions={})
    lane = replace(LANE, workers=(WORKER, old, new, gone))
    assert [check.status for check in check_versions(replace(WELL, lanes=(lane,)))] == ["ok", "ok", "warn", "unknown"]


def test_variables_that_nothing_reads() -> None:
    """They are a warning that names each."""
    assert [check.status for check in check_environment({})] == ["ok"]
    (check,) = check_environment({"TOKENLANE_REDIS": " Did you mean 'TOKENLANE_REDIS_URL'?", "TOKENLANE_X": ""})
    assert check.status == "warn"
    assert check.found == (
        "nothing reads TOKENLANE_REDIS. Did you mean 'TOKENLANE_REDIS_URL'?; nothing reads TOKENLANE_X."
    )


@pytest.mark.parametrize(("state", "status"), [("down", "fail"), ("loading", "warn"), ("degraded", "warn")])
def test_a_lane_whose_back_end_cannot_work(state: str, status: str) -> None:
    """It is told with what the back end says, wherever its endpoint can be reached from."""
    away = replace(LANE, state=LaneState(state), why="It says no.")
    (check,) = check_lanes(replace(WELL, lanes=(away,)), {away.name: "answers"}, "here")
    assert check.status == status
    assert "It says no" in check.found


def test_lanes_of_one_back_end_are_warned_of() -> None:
    """Two lanes for one endpoint are one warning; apart they are none."""
    two = replace(WELL, lanes=(LANE, replace(LANE, name="gpu1")))
    assert [check.status for check in check_back_ends(two)] == ["warn"]
    assert list(check_back_ends(WELL)) == []
