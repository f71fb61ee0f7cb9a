"""Checks a pool's routers, lanes, keys and routes from one snapshot, for `status --check` and `doctor`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from urllib.parse import urlsplit

from tokenlane.config.cli.sentences import age, counted
from tokenlane.config.settings.values import TOY_PROVIDER
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import ModelNotFound, RateLimited, Unauthorized
from tokenlane.routing.contract.worker_report import BreakerState
from tokenlane.routing.decide.candidates import candidates
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.unknown_places import unknown_places
from tokenlane.routing.decide.wait_cause import START_ROUTER

from .finding import Code, Finding, Severity
from .queue_health import examine_queues, examine_waits
from .redis_health import judge_memory
from .snapshot import LaneStatus, Snapshot

MAX_WAIT_S = 60.0
"""For how many seconds the oldest request of a role may wait, unless `status --max-wait` says otherwise."""
SILENT_MS = 10_000
"""For how long a lane may run chats without a new token until it counts as silent."""
_FAILURES_IN_A_ROW = 3
"""From how many failures in a row a lane counts as failing."""
_FAILURES_FADE_MS = 5 * 60_000
"""If the newest failure is older and no attempt followed, the lane may have been repaired: a warning, not a failure."""

HAND_OVER_KEYS = "restart it with the keys that `tokenlane key show --reveal` prints on a host that has them"


def find_problems(snapshot: Snapshot, max_wait_s: float = MAX_WAIT_S) -> tuple[Finding, ...]:
    """Run every check and return the failures and warnings.

    Args:
        max_wait_s: how many seconds the oldest request of a role may wait.
    """
    return tuple(
        finding for finding in (*examine_pool(snapshot), *examine_waits(snapshot, max_wait_s)) if finding.is_problem
    )


def examine_pool(snapshot: Snapshot) -> Iterator[Finding]:
    """Run every check that needs no limits. A check that passes yields a finding, too."""
    yield from snapshot.sentinels
    yield judge_memory(snapshot.memory)
    if snapshot.routers:
        yield Finding(Code.ROUTERS, "ok", counted(len(snapshot.routers), "router is running", "routers are running"))
    else:
        yield Finding(Code.NO_ROUTER, "fail", "no router is running, so no lane gets work", START_ROUTER)
    if not snapshot.lanes:
        advice = "start `tokenlane worker` on the host of a model server"
        yield Finding(Code.NO_LANE, "fail", "no lane is connected, so no request is answered", advice)
    yield from examine_queues(snapshot)
    yield from map(_lane, snapshot.lanes)
    yield from _failing(snapshot)
    yield from _silent(snapshot)
    yield from _pins(snapshot)
    yield from _keys(snapshot)
    yield from _toy(snapshot)
    yield from _routes(snapshot)
    yield from _plugins(snapshot)
    yield from _shared_model_servers(snapshot)


_UNREADY = {
    "down": (Code.LANE_DOWN, "is down"),
    "loading": (Code.LANE_LOADING, "is loading its model"),
    "degraded": (Code.LANE_DEGRADED, "has a worker whose model server cannot work"),
}


def _lane(lane: LaneStatus) -> Finding:
    title = f"lane {lane.name!r} ({lane.endpoint})"
    error = f"; last error: {lane.error.code}" if lane.error else ""
    beat = f"{lane.beat_ms / 1000:.0f} s"
    if lane.state == "gone":
        observed = f"{title} has had no worker for {beat}{error}"
        advice = f"restart its worker on {_hosts(lane)}; the pool forgets a lane an hour after its last heartbeat"
        return Finding(Code.LANE_GONE, "fail", observed, advice, lane.name)
    if lane.lacks_key:
        observed = f"{title} accepts no work: its worker lacks a key of the pool; the worker's log names the key"
        return Finding(Code.LANE_CLOSED, "fail", observed, HAND_OVER_KEYS, lane.name)
    if lane.why and not lane.drained and (breakers := _breakers(lane)):
        severity: Severity = "fail" if "open" in breakers else "warn"
        advice = f"{_USUAL_FIX.format(host=_hosts(lane))}; the worker goes on trying by itself"
        return Finding(Code.LANE_FAILS, severity, f"{title} is {lane.state}: {lane.why}", advice, lane.name)
    meanwhile = "its other workers serve it meanwhile" if lane.state.accepts_work else "it accepts no work until then"
    if lane.why and _pauses(lane):
        observed = f"{title} is {lane.state}: {lane.why}; {meanwhile}"
        advice = f"if this happens often, {_FIXES[RateLimited.code].format(host=_hosts(lane))}"
        return Finding(Code.LANE_PAUSED, "warn", observed, advice, lane.name)
    if lane.why and lane.state in _UNREADY:
        code, state = _UNREADY[lane.state]
        advice = f"the lane is up again as soon as the model server on {_hosts(lane)} works; {meanwhile}"
        return Finding(code, "fail", f"{title} {state}: {lane.why.rstrip('.')}", advice, lane.name)
    if lane.state == "down":
        observed = f"{title}: its worker is alive but did not start the requests that routers gave it{error}"
        advice = (
            "the worker gets work again after its next heartbeat; if this happens again, read its log and restart it"
        )
        return Finding(Code.LANE_CLOSED, "fail", observed, advice, lane.name)
    drained = f"; {lane.why}" if lane.drained else ""
    return Finding(Code.LANE, "ok", f"{lane.state}, last heartbeat {beat} ago{drained}", subject=lane.name)


def _breakers(lane: LaneStatus) -> set[BreakerState]:
    """The states of the circuit breakers of the lane's live workers, without those that are closed."""
    return {worker.report.breaker for worker in lane.workers if worker.is_alive} - {"closed"}


def _pauses(lane: LaneStatus) -> bool:
    """Whether the lane, or some of its workers and no other is unready, pause because a model server asked for it."""
    unready = {worker.state for worker in lane.workers if worker.state != "silent" and worker.state.is_unready}
    return lane.state is LaneState.PAUSED or (lane.state is LaneState.DEGRADED and unready == {LaneState.PAUSED})


_FIXES = {
    Unauthorized.code: "correct the API key that api_key_env names on {host}, and restart the worker",
    ModelNotFound.code: "compare the models of the lane with those of the model server (`tokenlane models list`)",
    RateLimited.code: "lower the lane's --capacity on {host}, or raise the limits of the model server's account",
}
_USUAL_FIX = "read the worker's log on {host}, and check the model server"


def _failing(snapshot: Snapshot) -> Iterator[Finding]:
    """The workers of open lanes whose last requests all failed."""
    for lane in snapshot.lanes:
        for worker in lane.workers if lane.state.accepts_work else ():
            attempts, failing = worker.report.attempts, worker.report.attempts.failing
            if not worker.is_alive or sum(failing.values()) < _FAILURES_IN_A_ROW or worker.report.breaker != "closed":
                continue
            age_ms = attempts.failing_ms + worker.beat_ms
            causes = ", ".join(f"{count} {code}" for code, count in sorted(failing.items(), key=lambda it: -it[1]))
            observed = (
                f"lane {lane.name!r} ({lane.endpoint}): the last {sum(failing.values())} attempts of worker "
                f"{worker.name!r} failed ({causes})"
            )
            if attempts.failing_code:  # workers of older versions leave it out
                observed += f", the newest {age(age_ms)} ago with {attempts.failing_code}"
            fix = _FIXES.get(max(failing, key=lambda code: failing[code]), _USUAL_FIX)
            advice = fix.format(host=worker.host or "its host")
            severity: Severity = "fail"
            if attempts.failing_code and age_ms > _FAILURES_FADE_MS:
                severity = "warn"
                advice = f"{advice}. If that is done, send a request: this line goes once one completes"
            yield Finding(Code.LANE_FAILS, severity, observed, advice, lane.name)


def _silent(snapshot: Snapshot) -> Iterator[Finding]:
    """The lanes that run chats and produce no tokens."""
    for lane in snapshot.lanes:
        if lane.silent_ms is not None and lane.silent_ms >= SILENT_MS:
            chats = counted(lane.chats.running, "chat runs", "chats run")
            observed = f"lane {lane.name!r} ({lane.endpoint}): {chats}, and no token has come for {age(lane.silent_ms)}"
            advice = "check whether its model server still answers, and restart the server if it hangs"
            yield Finding(Code.LANE_SILENT, "warn", observed, advice, lane.name)


def _pins(snapshot: Snapshot) -> Iterator[Finding]:
    """The pinned models that connected lanes do not serve."""
    for lane in snapshot.lanes:
        for model, why in lane.offer.not_as_pinned.items() if not lane.state.is_away else ():
            observed = f"lane {lane.name!r} does not serve model {model!r}, which is pinned: {why}"
            yield Finding(Code.MODEL_NOT_PINNED, "warn", observed, subject=lane.name)


def _hosts(lane: LaneStatus) -> str:
    try:
        announced = urlsplit(lane.endpoint).hostname
    except ValueError:
        announced = None
    return " or ".join(sorted({worker.host for worker in lane.workers if worker.host})) or announced or "its host"


def _keys(snapshot: Snapshot) -> Iterator[Finding]:
    closed = {worker.name for lane in snapshot.lanes if lane.lacks_key for worker in lane.workers}
    for key_id in (*snapshot.keys, *snapshot.retiring, *snapshot.prepared):
        prepared = key_id in snapshot.prepared
        without = snapshot.without_key(key_id)
        if prepared and not without:
            advice = "run `tokenlane key rotate`"
            yield Finding(Code.KEY_PREPARED, "ok", f"every worker has {key_id}", advice, key_id)
        for worker in without:
            if worker.name in closed or (worker.keys is None and not prepared):
                continue  # its lane is reported as closed; or the worker joined, which requires all but prepared keys
            lacks = "lacks" if worker.keys is not None else "runs an older tokenlane and may lack"
            key = f"{'prepared ' if prepared else ''}key {key_id}"
            observed = f"worker {worker.name!r} of lane {worker.lane!r} {lacks} {key}"
            advice = f"before `tokenlane key rotate`, {HAND_OVER_KEYS}" if prepared else HAND_OVER_KEYS
            yield Finding(Code.KEY_MISSING, "fail", observed, advice, worker.lane)


def _toy(snapshot: Snapshot) -> Iterator[Finding]:
    serving = [lane for lane in snapshot.lanes if lane.state.accepts_work]
    if serving and all(lane.provider == TOY_PROVIDER for lane in serving):
        advice = "start a model server (`tokenlane probe` shows how); `tokenlane up` then switches to it"
        yield Finding(Code.ONLY_TOY, "warn", "only the built-in toy model serves this pool", advice)


def _routes(snapshot: Snapshot) -> Iterator[Finding]:
    unknown = list(unknown_places(snapshot.policy, snapshot.views)) if snapshot.lanes else []
    for place in unknown:
        lost = sum(other.role == place.role for other in unknown) == len(snapshot.policy.roles[place.role].route)
        severity: Severity = "fail" if lost else "warn"  # a role with other places is still served
        advice = "start the worker of that lane, or correct the route with `tokenlane policy apply`"
        yield Finding(Code.ROUTE_UNKNOWN, severity, place.message, advice, place.role)


def _plugins(snapshot: Snapshot) -> Iterator[Finding]:
    """Compare the prompt plugin of each role with those of the workers that may serve the role."""
    for role, rules in snapshot.policy.roles.items():
        if rules.prompt is None:
            continue
        plugin = rules.prompt.plugin
        routed = {lane.name for lane, _ in candidates(snapshot.policy, role, Needs(), snapshot.views)}
        workers = (worker for lane in snapshot.lanes if lane.name in routed for worker in lane.workers)
        known = [worker for worker in workers if worker.is_alive and worker.report.plugins is not None]
        lacking = [worker for worker in known if plugin not in (worker.report.plugins or ())]
        if lacking:
            whose = ", ".join(f"{worker.name} (lane {worker.lane!r})" for worker in lacking)
            yield Finding(
                Code.PLUGIN_MISSING,
                "fail" if lacking == known else "warn",
                f"role {role!r} has prompt plugin {plugin}, which these workers cannot use: {whose}",
                "put its file into the directory that `plugins` in [advanced] names on their hosts, or correct the "
                "policy; a worker that has the file says in its log why it cannot use it",
                role,
            )


def _shared_model_servers(snapshot: Snapshot) -> Iterator[Finding]:
    by_endpoint: defaultdict[str, list[LaneStatus]] = defaultdict(list)
    for lane in snapshot.lanes:
        if lane.endpoint and not lane.state.is_away:
            by_endpoint[lane.endpoint.rstrip("/").lower()].append(lane)
    for lanes in by_endpoint.values():
        if len(lanes) > 1:
            names, limit = ", ".join(repr(lane.name) for lane in lanes), sum(lane.chats.limit for lane in lanes)
            observed = (
                f"lanes {names} share one model server ({lanes[0].endpoint}) and send it up to {limit} chats at once"
            )
            advice = "serve it with one lane, or divide its capacity between them with --capacity"
            yield Finding(Code.MODEL_SERVER_SHARED, "warn", observed, advice, lanes[0].name)
