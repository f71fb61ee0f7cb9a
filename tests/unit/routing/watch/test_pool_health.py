from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.lanes import lane_view

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.contract.worker_report import AttemptsReport, BreakerState, WorkerReport
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.policy import Candidate, Policy, PromptPolicy, RolePolicy
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.routing.watch.pool_health import examine_pool, find_problems
from tokenlane.routing.watch.snapshot import (
    ClientsStatus,
    Failures,
    LaneStatus,
    LastError,
    Memory,
    QueueStatus,
    Rates,
    RoleStatus,
    RouterStatus,
    Slots,
    Snapshot,
    WorkerStatus,
)
from tokenlane.routing.watch.unused_pool import examine_use

LANE = LaneStatus("gpu0", LaneState.UP, "vllm", "http://gpu:8000", ("m1",), {"chat": Slots(4)}, 5_000, None, ())


def _views(*lanes: LaneStatus) -> tuple[LaneView, ...]:
    return tuple(
        lane_view(it.name, it.provider, it.endpoint, it.models, it.chats.limit, state=it.state) for it in lanes
    )


QUEUE = QueueStatus("coder", "chat", "normal", Needs(size=64), waiting=2, oldest_ms=20_000)
ROLE = RoleStatus("coder", "normal", waiting=2, oldest_ms=20_000, running=0, rates=Rates())
WELL = Snapshot(
    v=1,
    pool="main",
    time_ms=0,
    revision=0,
    key_id=None,
    roles=(ROLE,),
    queues=(QUEUE,),
    lanes=(LANE,),
    views=_views(LANE),
    routers=(RouterStatus("h/1", 100, 0),),
    clients=ClientsStatus(1, 0),
    delayed=0,
    swept_ms=100,
    lagging=(),
    policy=Policy(),
)


def with_lanes(*lanes: LaneStatus, **others: Any) -> Snapshot:
    """The pool with these lanes."""
    return replace(WELL, lanes=lanes, views=_views(*lanes), **others)


def codes(snapshot: Snapshot, max_wait_s: float = 60) -> list[str]:
    """The codes of what is wrong; every message is one line and names its subject."""
    found = find_problems(snapshot, max_wait_s)
    assert all("\n" not in str(it) and it.subject in str(it) for it in found)
    return [it.code for it in found]


def test_a_pool_that_works_has_no_problem() -> None:
    """Work waiting for a live lane, within its time, with a router: nothing is wrong."""
    assert codes(WELL) == []


def test_only_the_built_in_model() -> None:
    """The built-in model's lane is a warning while no other lane accepts work."""
    toy = replace(LANE, name="toy", provider="builtin", endpoint="http://gpu:9999")
    assert codes(with_lanes(toy)) == ["only_toy"]
    assert codes(with_lanes(toy, replace(LANE, state=LaneState.LEFT))) == ["only_toy"]
    assert codes(with_lanes(toy, LANE)) == []


@pytest.mark.parametrize(
    ("keys", "prepared", "retiring", "found"),
    [
        (("old", "new"), ("new",), (), []),
        (("old",), ("new",), (), ["key_missing"]),
        (("new",), (), ("old",), ["key_missing"]),
        ((), ("new",), (), ["key_missing", "key_missing"]),
        (None, (), ("old",), []),  # it has joined, which takes all but those that are prepared
        (None, ("new",), (), ["key_missing"]),
    ],
)
def test_a_worker_without_a_key(
    keys: tuple[str, ...] | None, prepared: tuple[str, ...], retiring: tuple[str, ...], found: list[str]
) -> None:
    """Each key of the pool that a worker does not report is a failure; an older worker may lack only prepared keys."""
    worker = WorkerStatus("w1", LANE.name, LaneState.UP, "host", {}, 0, 0, 0, None, keys=keys)
    sealing = () if retiring else ("old",)
    lane = replace(LANE, workers=(worker,))
    snapshot = with_lanes(lane, keys=sealing, prepared=prepared, retiring=retiring)
    assert codes(snapshot) == found
    silent = replace(lane, workers=(replace(worker, state="silent"),))
    assert "key_missing" not in codes(replace(snapshot, lanes=(silent,)))


def test_checks_that_pass() -> None:
    """`examine_pool` also yields findings for the routers, each lane, and a prepared key that every worker has."""
    found = examine_pool(replace(WELL, prepared=("new",)))
    assert [(it.code, it.severity, it.subject) for it in found] == [
        (Code.MEMORY, "unknown", ""),
        (Code.ROUTERS, "ok", ""),
        (Code.LANE, "ok", LANE.name),
        (Code.KEY_PREPARED, "ok", "new"),
    ]


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (None, []),
        (Memory(100, 0), []),
        (Memory(90, 100), []),
        (Memory(91, 100), [("memory", "warn")]),
        (Memory(99, 100), [("memory", "fail")]),
    ],
)
def test_the_memory_of_the_redis_server(memory: Memory | None, expected: list[tuple[str, str]]) -> None:
    """A server that is nearly full is a warning, and one that refuses new requests a failure."""
    problems = find_problems(replace(WELL, memory=memory))
    assert [(it.code, it.severity) for it in problems] == expected
    assert all(it.advice for it in problems)


def test_sentinels() -> None:
    """What a snapshot has about the Sentinels is a problem of the pool, unless they are well."""
    well, cut_off = Finding(Code.SENTINELS, "ok", "three agree"), Finding(Code.SENTINELS, "warn", "one is cut off")
    assert find_problems(replace(WELL, sentinels=(well, cut_off))) == (cut_off,)


def test_a_pool_without_routers_and_lanes() -> None:
    """Both are failures, and waiting requests are unserved."""
    assert codes(with_lanes(routers=())) == ["no_router", "no_lane", "unserved"]
    assert codes(replace(WELL, routers=())) == ["no_router"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [("up", []), ("draining", []), ("down", ["lane_closed"]), ("left", []), ("gone", ["lane_gone"])],
)
def test_lanes(state: str, expected: list[str]) -> None:
    """A lane whose worker vanished or does not start requests is a failure; a lane that was shut down is none."""
    assert codes(with_lanes(replace(LANE, state=LaneState(state)), queues=())) == expected


def test_a_lane_that_vanished_names_its_last_error() -> None:
    """The finding has the code of the lane's last error."""
    gone = replace(LANE, state=LaneState.GONE, error=LastError("provider_down", 9_000))
    (problem,) = find_problems(with_lanes(gone, queues=()), 60)
    assert "provider_down" in problem.observed


def test_a_worker_without_the_pools_key() -> None:
    """A lane whose worker drains because it lacks a key is a failure, unlike a lane that is being shut down."""
    keyless = replace(LANE, state=LaneState.DRAINING, error=LastError(PoolKeyMismatch.code, 9_000))
    assert codes(with_lanes(keyless, queues=())) == ["lane_closed"]


@pytest.mark.parametrize(
    ("queue", "policy"),
    [
        (replace(QUEUE, needs=Needs(model="m2")), Policy()),
        (replace(QUEUE, needs=Needs(provider="ollama")), Policy()),
        (QUEUE, Policy(roles={"coder": RolePolicy(route=(Candidate(lane="gpu1"),))})),
    ],
)
def test_work_that_no_live_lane_serves(queue: QueueStatus, policy: Policy) -> None:
    """Requests for a model, a provider or a route that no live lane has are a failure once `patience_ms` is over."""
    also = ["route_unknown"] if policy.roles else []
    assert codes(replace(WELL, queues=(queue,), policy=policy)) == ["unserved", *also]
    assert codes(replace(WELL, queues=(replace(queue, oldest_ms=1_000),), policy=policy)) == also


def test_unserved_queues_that_look_the_same_are_one_line() -> None:
    """Their requests are added up, and the oldest of all counts; another model is another line."""
    queues = (
        replace(QUEUE, needs=Needs(model="m2", size=64)),
        replace(QUEUE, needs=Needs(model="m2", size=256), waiting=3, oldest_ms=40_000),
        replace(QUEUE, needs=Needs(model="m3")),
    )
    first, second = find_problems(replace(WELL, queues=queues), 60)
    assert (first.code, second.code) == ("unserved", "unserved")
    assert "5 requests wait, the oldest for 40 s" in first.observed
    assert "'m3'" in second.observed


def test_a_route_that_names_what_is_not_there() -> None:
    """It is a warning while the role has another place, else a failure; a pool without lanes has only that finding."""
    policy = Policy(roles={"coder": RolePolicy(route=(Candidate(lane="gpu0"), Candidate(lane="nowhere")))})
    (told,) = find_problems(replace(WELL, policy=policy), 60)
    assert (told.code, told.subject, told.severity) == ("route_unknown", "coder", "warn")
    only = Policy(roles={"coder": RolePolicy(route=(Candidate(lane="nowhere"),))})
    (told,) = find_problems(replace(WELL, queues=(), policy=only), 60)
    assert (told.code, told.subject, told.severity) == ("route_unknown", "coder", "fail")
    assert codes(with_lanes(queues=(), policy=policy)) == ["no_lane"]


def test_a_prompt_plugin_that_workers_lack() -> None:
    """It is a warning while a worker has the plugin, else a failure. A worker that says nothing counts as neither,
    and a lane outside the role's route does not matter."""
    digest = f"sha256:{'1' * 64}"
    policy = Policy(roles={"coder": RolePolicy(route=(Candidate(lane="gpu0"),), prompt=PromptPolicy(plugin=digest))})

    def worker(name: str, plugins: tuple[str, ...] | None, lane: str = "gpu0") -> WorkerStatus:
        report = WorkerReport(plugins=plugins)
        return WorkerStatus(name, lane, LaneState.UP, "host", {}, 0, 0, 0, None, report)

    has, lacks, silent = worker("w1", (digest,)), worker("w2", ()), worker("w3", None)
    other = replace(LANE, name="gpu1", endpoint="http://other", workers=(worker("w4", (), "gpu1"),))
    for workers, severity in (((has, lacks), "warn"), ((lacks, silent), "fail"), ((has, silent), None)):
        snapshot = with_lanes(replace(LANE, workers=workers), other, queues=(), policy=policy)
        found = [(told.code, told.subject, told.severity) for told in find_problems(snapshot, 60)]
        assert found == ([] if severity is None else [("plugin_missing", "coder", severity)])
    (told,) = find_problems(with_lanes(replace(LANE, workers=(lacks,)), queues=(), policy=policy), 60)
    assert "w2" in told.observed
    assert digest in told.observed


def test_work_for_a_lane_that_was_stopped() -> None:
    """A lane that was shut down is no problem until requests wait that only it could serve."""
    assert codes(with_lanes(replace(LANE, state=LaneState.LEFT))) == ["unserved"]


def test_waiting_above_the_bound() -> None:
    """The caller sets the limit, which applies to each role and priority."""
    assert codes(WELL, max_wait_s=20) == []
    assert codes(WELL, max_wait_s=19.9) == ["waits_long"]


@pytest.mark.parametrize(
    ("state", "expected"), [("down", "lane_down"), ("loading", "lane_loading"), ("degraded", "lane_degraded")]
)
def test_a_model_server_that_cannot_work(state: str, expected: str) -> None:
    """The finding has the model server's own explanation, whatever the worker's last error was."""
    away = replace(LANE, state=LaneState(state), why="It says no.", error=LastError("timeout", 9_000))
    snapshot = with_lanes(away, queues=())
    assert codes(snapshot) == [expected]
    assert "It says no" in find_problems(snapshot, 60)[0].observed


def test_a_model_server_that_asked_for_a_pause() -> None:
    """It is a warning, also if only some of the lane's workers pause, and requests that wait are no failure yet."""
    paused = WorkerStatus("w1", LANE.name, LaneState.PAUSED, "host", {}, 0, 0, 0, None)
    one = replace(LANE, state=LaneState.PAUSED, why="its model server answered", workers=(paused,))
    two = replace(one, state=LaneState.DEGRADED, workers=(paused, replace(paused, name="w2", state=LaneState.UP)))
    for lane in (one, two):
        (finding,) = find_problems(with_lanes(lane), 60)
        assert (finding.code, finding.severity) == ("lane_paused", "warn")
        assert lane.why in finding.observed
    third = replace(two, workers=(*two.workers, replace(paused, name="w3", state=LaneState.DOWN)))
    assert codes(with_lanes(third)) == ["lane_degraded"]


@pytest.mark.parametrize(
    ("endpoint", "state", "shared"),
    [
        ("http://gpu:8000", "up", True),
        ("http://GPU:8000/", "down", True),
        ("http://gpu:8000", "left", False),
        ("http://gpu:8001", "up", False),
    ],
)
def test_lanes_of_one_model_server(endpoint: str, state: str, shared: bool) -> None:
    """Two lanes that share a model server are a warning, since this may be intended."""
    other = replace(LANE, name="gpu1", endpoint=endpoint, state=LaneState(state))
    snapshot = with_lanes(LANE, other, queues=())
    found = [it for it in find_problems(snapshot, 60) if it.code == "model_server_shared"]
    assert [it.code for it in found] == (["model_server_shared"] if shared else [])
    assert all("gpu0" in it.observed and "gpu1" in it.observed and "8 chats" in it.observed for it in found)
    assert all(it.severity == "warn" for it in found)


def test_lanes_of_no_known_model_server_share_none() -> None:
    """Lanes without an announced endpoint do not count as sharing a model server."""
    nowhere = replace(LANE, endpoint="")
    assert codes(with_lanes(nowhere, replace(nowhere, name="gpu1"), queues=())) == []


WORKING = WorkerStatus("w1", LANE.name, LaneState.UP, "host", {}, 0, 0, 0, None)


def with_failures(age_ms: int = 0, **failures: int) -> Snapshot:
    """A pool whose worker reports these attempts, by error code, since its newest completed one."""
    newest = max(failures, default="")
    report = WorkerReport(attempts=AttemptsReport(failing=failures, failing_code=newest, failing_ms=age_ms))
    worker = replace(WORKING, report=report, error=LastError(max(failures, default=""), 9_000))
    return with_lanes(replace(LANE, workers=(worker,)), queues=())


def test_a_lane_whose_requests_all_fail() -> None:
    """From the third failure in a row, the finding names the errors and how many there were of each."""
    assert codes(with_failures(unauthorized=2)) == []
    (finding,) = find_problems(with_failures(unauthorized=2, provider_down=1), 60)
    assert (finding.code, finding.severity, finding.subject) == ("lane_fails", "fail", LANE.name)
    assert "2 unauthorized" in finding.observed
    assert "1 provider_down" in finding.observed


def test_a_lane_that_failed_a_while_ago() -> None:
    """Once nothing has failed for some minutes, the finding is a warning: the lane may have been repaired."""
    (finding,) = find_problems(with_failures(60_000, unauthorized=3), 60)
    assert (finding.code, finding.severity) == ("lane_fails", "fail")
    (finding,) = find_problems(with_failures(10 * 60_000, unauthorized=3), 60)
    assert (finding.code, finding.severity) == ("lane_fails", "warn")
    assert "10 min" in finding.observed


@pytest.mark.parametrize(
    ("silent_ms", "expected"),
    [
        ((9_999,), []),
        ((10_000,), ["lane_silent"]),
        ((60_000, 1_000), []),  # another worker of the lane gets tokens
        ((60_000, None), ["lane_silent"]),  # the other worker runs no chat
        ((None,), []),
    ],
)
def test_a_lane_that_runs_chats_without_tokens(silent_ms: tuple[int | None, ...], expected: list[str]) -> None:
    """It is a warning if all workers that run chats have got no token for a while; a worker that vanished does not
    count."""
    workers = [replace(WORKING, name=f"w{i}", report=WorkerReport(silent_ms=ms)) for i, ms in enumerate(silent_ms)]
    vanished = replace(WORKING, state="silent", report=WorkerReport(silent_ms=0))
    snapshot = with_lanes(replace(LANE, slots={"chat": Slots(4, 2)}, workers=(*workers, vanished)), queues=())
    assert codes(snapshot) == expected
    assert not any(finding.severity == "fail" for finding in find_problems(snapshot))


@pytest.mark.parametrize(("running", "expected"), [(0, ["lane_silent"]), (1, [])])
def test_what_an_older_worker_does_not_tell_is_unknown(running: int, expected: list[str]) -> None:
    """A worker of an older version that runs requests may be receiving tokens; one that runs nothing is not."""
    silent = replace(WORKING, running=1, report=WorkerReport.model_validate_json('{"silent_ms": 60000}'))
    older = replace(WORKING, name="w2", running=running, report=WorkerReport.model_validate_json("{}"))
    snapshot = with_lanes(replace(LANE, slots={"chat": Slots(4, 2)}, workers=(silent, older)), queues=())
    assert codes(snapshot) == expected
    assert snapshot.lanes[0].silent_ms == (None if running else 60_000)


def test_a_closed_lane_reports_no_failures() -> None:
    """A lane that takes no work has a finding that says why."""
    (lane,) = with_failures(provider_down=9).lanes
    down = replace(lane, state=LaneState.DOWN, why="It refuses connections.")
    assert codes(with_lanes(down, queues=())) == ["lane_down"]


@pytest.mark.parametrize(
    ("breaker", "state", "severity"),
    [("open", LaneState.DOWN, "fail"), ("half-open", LaneState.UP, "warn"), ("half-open", LaneState.DOWN, "warn")],
)
def test_a_lane_whose_circuit_breaker_is_not_closed(breaker: BreakerState, state: LaneState, severity: str) -> None:
    """There is one finding, with the breaker's reason: a failure while it is open, and a warning while it tries."""
    (lane,) = with_failures(provider_down=9).lanes
    worker = replace(lane.workers[0], report=lane.workers[0].report.model_copy(update={"breaker": breaker}))
    failing = replace(lane, state=state, why="7 of the last 8 requests failed", workers=(worker,))
    (finding,) = find_problems(with_lanes(failing, queues=()), 60)
    assert (finding.code, finding.severity, finding.subject) == ("lane_fails", severity, LANE.name)
    assert failing.why in finding.observed
    drained = replace(failing, state=LaneState.DRAINING, why="an operator drained it", drained=True)
    assert codes(with_lanes(drained, queues=())) == []


def test_a_worker_that_vanished_reports_no_failures() -> None:
    """Its last report says nothing about the lane's other workers."""
    (lane,) = with_failures(provider_down=9).lanes
    silent = replace(lane.workers[0], state="silent")
    assert codes(with_lanes(replace(lane, workers=(silent, WORKING)), queues=())) == []


def test_refused_requests() -> None:
    """Requests that the pool refused in the last minute are a failure of their role."""
    seen = replace(WELL, roles=(replace(ROLE, rates=Rates(accepted=1, completed=1, refused=0.5)),))
    (finding,) = find_problems(seen, 60)
    assert (finding.code, finding.severity, finding.subject) == ("requests_refused", "fail", "coder")


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (Rates(failed=0.05), ["role_fails"]),
        (Rates(failed=0.02), []),
        (Rates(expired=3.0), ["role_fails"]),  # a model server that accepts requests and never answers
        (Rates(failed=0.02, expired=0.03), ["role_fails"]),
        (Rates(failed=9.9, completed=0.02), ["role_fails"]),
        (Rates(failed=0.1, completed=0.1), []),
        (Rates(cancelled=3.0), []),
    ],
)
def test_a_role_most_of_whose_requests_fail(rates: Rates, expected: list[str]) -> None:
    """From three requests a minute that failed or expired, if they are more than those that completed."""
    assert codes(replace(WELL, roles=(replace(ROLE, rates=rates),))) == expected


def test_priorities_fail_together() -> None:
    """A role whose requests of one priority all fail does not fail if more of another priority complete, and what two
    priorities lose adds up. There is one finding for the role."""
    failing, working = replace(ROLE, rates=Rates(failed=0.5)), replace(ROLE, priority="high", rates=Rates(completed=10))
    assert codes(replace(WELL, roles=(failing, working))) == []
    assert codes(replace(WELL, roles=(failing, replace(working, rates=Rates(expired=0.5))))) == ["role_fails"]


def test_a_failing_role_names_codes_and_lanes() -> None:
    """The finding has how many requests failed with which code on which lane."""
    failures = (Failures("unauthorized", "gpu1", 4), Failures("model_not_found", "", 1))
    role = replace(ROLE, rates=Rates(failed=5 / 60), failures=failures)
    (finding,) = find_problems(replace(WELL, roles=(role,)), 60)
    assert finding.code == "role_fails"
    assert "4 unauthorized on gpu1, 1 model_not_found" in finding.observed
    rates, many = Rates(failed=1, expired=0.5, completed=0.1), tuple(Failures(f"c{i}", "", 9 - i) for i in range(6))
    (finding,) = find_problems(replace(WELL, roles=(replace(ROLE, rates=rates, failures=many),)), 60)
    assert all(fact in finding.observed for fact in ("60 failed", "9 c0", "30 expired", "6 requests completed"))
    assert "c5" not in finding.observed
    assert "redis-cli" not in str(finding)


def test_a_pool_without_lanes_and_policy() -> None:
    """It may be a misspelt name, unless the pool is in use."""
    unused = with_lanes(routers=(), queues=(), roles=(), clients=ClientsStatus(1, 0))
    (finding,) = examine_use(unused, ("main", "dev"))
    assert (finding.code, finding.severity) == ("pool_unused", "fail")
    assert "'dev'" in finding.observed
    assert list(examine_use(replace(unused, revision=1), ())) == []
    assert list(examine_use(replace(unused, lanes=(LANE,)), ())) == []
    assert list(examine_use(replace(unused, routers=WELL.routers), ())) == []
