"""What is wrong with a pool, told from one snapshot: for `tokenlane status --check`, `doctor`, and so for monitors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from urllib.parse import urlsplit

from tokenlane.config.settings.values import TOY_PROVIDER
from tokenlane.routing.decide.candidates import candidates
from tokenlane.routing.decide.unknown_places import unknown_places

from .finding import Code, Finding, Severity
from .snapshot import LaneStatus, QueueStatus, Snapshot

_HAND_OVER_KEYS = "start it again with the keys that `tokenlane key show --reveal` prints where the key is"


def problems(seen: Snapshot, max_wait_s: float) -> tuple[Finding, ...]:
    """What is wrong.

    Args:
        max_wait_s: how long the oldest request of a role may have waited.
    """
    return tuple(finding for finding in (*examine_pool(seen), *_waits(seen, max_wait_s)) if finding.is_problem)


def examine_pool(seen: Snapshot) -> Iterator[Finding]:
    """Everything that a snapshot tells, the worst first; what is well, too."""
    yield _routers(seen)
    if not seen.lanes:
        advice = "start `tokenlane worker` beside a model server"
        yield Finding(Code.NO_LANE, "fail", "no lane: nothing is answered", advice)
    yield from _unserved(seen)
    for lane in seen.lanes:
        yield _lane(lane)
    yield from _keys(seen)
    yield from _toy(seen)
    yield from _routes(seen)
    yield from _shared_back_ends(seen)


def _routers(seen: Snapshot) -> Finding:
    if seen.routers:
        return Finding(Code.ROUTERS, "ok", f"{len(seen.routers)}")
    advice = "start a worker or `tokenlane router`"
    return Finding(Code.NO_ROUTER, "fail", "no router: nothing is given to lanes", advice)


def _unserved(seen: Snapshot) -> Iterator[Finding]:
    lanes = [lane for lane in seen.views if lane.state.takes_work]
    for queue in seen.queues:
        # One nobody has been heard of for is refused after that time; until then a worker may be on its way.
        if queue.oldest_ms < seen.policy.patience_ms:
            continue
        if next(candidates(seen.policy, queue.role, queue.needs, lanes, queue.kind), None) is None:
            yield Finding(
                Code.UNSERVED,
                "fail",
                f"role {queue.role!r}: {queue.waiting} of priority {queue.priority}{_wish(queue)} wait and no live "
                f"lane may serve them, the oldest for {queue.oldest_ms / 1000:.0f} s",
                "start a worker on a lane of the role's route, or change the route",
                queue.role,
            )


def _wish(queue: QueueStatus) -> str:
    wishes = {"provider": queue.provider, "model": queue.model}
    text = ", ".join(f"{name} {value!r}" for name, value in wishes.items() if value)
    return f" ({text})" if text else ""


def _lane(lane: LaneStatus) -> Finding:
    title = f"lane {lane.name!r} ({lane.endpoint})"
    error = f"; its last error: {lane.error.code}" if lane.error else ""
    beat = f"{lane.beat_ms / 1000:.0f} s"
    if lane.state == "gone":
        found = f"{title}: no live worker for {beat}{error}"
        advice = f"start its worker again, on {_hosts(lane)} (a lane is forgotten an hour after its last beat)"
        return Finding(Code.LANE_GONE, "fail", found, advice, lane.name)
    if lane.lacks_key:
        found = f"{title}: its worker lacks a key of the pool's, which its log names, and takes no work"
        return Finding(Code.LANE_CLOSED, "fail", found, _HAND_OVER_KEYS, lane.name)
    if lane.why and lane.state in _UNREADY:
        code, what = _UNREADY[lane.state]
        found = f"{title}: {what}: {lane.why.rstrip('.')}"
        advice = (
            f"see its model server, on {_hosts(lane)}; its worker asks that all the time, and goes on once it works"
        )
        return Finding(code, "fail", found, advice, lane.name)
    if lane.state == "down":
        found = f"{title}: its worker beats and did not start what it was given{error}"
        advice = "it gets work again with its next beat; if this stays, see its log and start it again"
        return Finding(Code.LANE_CLOSED, "fail", found, advice, lane.name)
    return Finding(Code.LANE, "ok", f"{title}: {lane.state}, last beat {beat} ago", subject=lane.name)


_UNREADY = {
    "down": (Code.LANE_DOWN, "its back end cannot work"),
    "loading": (Code.LANE_LOADING, "its back end loads its model"),
    "degraded": (Code.LANE_DEGRADED, "the back end of one of its workers cannot work, others serve the lane"),
}


def _hosts(lane: LaneStatus) -> str:
    try:
        announced = urlsplit(lane.endpoint).hostname
    except ValueError:
        announced = None
    return " or ".join(sorted({worker.host for worker in lane.workers if worker.host})) or announced or "its host"


def _keys(seen: Snapshot) -> Iterator[Finding]:
    closed = {worker.name for lane in seen.lanes if lane.lacks_key for worker in lane.workers}
    for key_id in (*seen.keys, *seen.retiring, *seen.prepared):
        prepared = key_id in seen.prepared
        without = seen.without_key(key_id)
        if prepared and not without:
            found = f"{key_id}, every worker has it: `tokenlane key rotate`"
            yield Finding(Code.KEY_PREPARED, "ok", found, subject=key_id)
        for worker in without:
            if worker.name in closed or (worker.keys is None and not prepared):
                continue  # told already; or joined, which takes all keys but those that are prepared
            lacks = "does not have" if worker.keys is not None else "is of an older tokenlane and may not have"
            which = f"key {key_id}, which is prepared" if prepared else f"key {key_id}"
            found = f"worker {worker.name!r} of lane {worker.lane!r} {lacks} {which}"
            advice = f"before `tokenlane key rotate` {_HAND_OVER_KEYS}" if prepared else _HAND_OVER_KEYS
            yield Finding(Code.KEY_MISSING, "fail", found, advice, worker.lane)


def _toy(seen: Snapshot) -> Iterator[Finding]:
    serving = [lane for lane in seen.lanes if lane.state.takes_work]
    if serving and all(lane.provider == TOY_PROVIDER for lane in serving):
        advice = "start a model server (`tokenlane probe` says how); `tokenlane up` then serves that by itself"
        yield Finding(Code.ONLY_TOY, "warn", "only the built-in model serves, a toy", advice)


def _routes(seen: Snapshot) -> Iterator[Finding]:
    unknown = list(unknown_places(seen.policy, seen.views)) if seen.lanes else []
    for place in unknown:
        lost = sum(other.role == place.role for other in unknown) == len(seen.policy.roles[place.role].route)
        severity: Severity = "fail" if lost else "warn"  # the role has other places
        advice = "start the worker of that place, or mend the route: `tokenlane policy apply`"
        yield Finding(Code.ROUTE_UNKNOWN, severity, place.message, advice, place.role)


def _shared_back_ends(seen: Snapshot) -> Iterator[Finding]:
    """Back ends that several lanes serve, each up to its own limit, which may be meant so."""
    found: defaultdict[str, list[LaneStatus]] = defaultdict(list)
    for lane in seen.lanes:
        if lane.endpoint and not lane.state.is_away:
            found[lane.endpoint.rstrip("/").lower()].append(lane)
    for lanes in found.values():
        if len(lanes) > 1:
            names, limit = ", ".join(repr(lane.name) for lane in lanes), sum(lane.chats.limit for lane in lanes)
            what = f"lanes {names} serve one back end ({lanes[0].endpoint}) and give it {limit} chats at once in all"
            advice = "serve it by one lane, or share out what it takes with --capacity"
            yield Finding(Code.BACK_END_SHARED, "warn", what, advice, lanes[0].name)


def _waits(seen: Snapshot, max_wait_s: float) -> Iterator[Finding]:
    for role in seen.roles:
        if role.oldest_ms is not None and role.oldest_ms > 1000 * max_wait_s:
            found = (
                f"role {role.role!r}: the oldest of {role.waiting} of priority {role.priority} waits for "
                f"{role.oldest_ms / 1000:.0f} s, more than {max_wait_s:g}"
            )
            yield Finding(Code.WAITS_LONG, "fail", found, "add lanes, or raise --max-wait", role.role)
