"""What is wrong with a pool, told from one snapshot: for `tokenlane status --check`, and so for monitors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tokenlane.config.settings.values import TOY_PROVIDER
from tokenlane.routing.decide.policy import candidates
from tokenlane.routing.decide.routes import unknown_places

from .snapshot import LaneStatus, QueueStatus, Snapshot

__all__ = ["Problem", "back_end", "problems", "shared_back_ends"]


Code = Literal[
    "no_router",
    "no_lane",
    "lane_gone",
    "lane_closed",
    "lane_down",
    "lane_loading",
    "lane_degraded",
    "key_missing",
    "only_toy",
    "unserved",
    "waits_long",
    "route_unknown",
    "back_end_shared",
]


@dataclass(frozen=True)
class Problem:
    """Something that needs a person. `subject`: the lane or role it is about, empty if it is the whole pool.
    `warning`: the pool does its work all the same.
    """

    code: Code
    subject: str
    message: str
    warning: bool = False


def problems(seen: Snapshot, max_wait_s: float) -> tuple[Problem, ...]:
    """What is wrong, the worst first.

    Args:
        max_wait_s: how long the oldest request of a role may have waited.
    """
    return (
        *_missing(seen),
        *_unserved(seen),
        *_lanes(seen),
        *_keys(seen),
        *_toy(seen),
        *_waits(seen, max_wait_s),
        *_routes(seen),
        *shared_back_ends(seen),
    )


def shared_back_ends(seen: Snapshot) -> Iterator[Problem]:
    """Back ends that several lanes serve, each up to its own limit, which may be meant so."""
    found: defaultdict[str, list[LaneStatus]] = defaultdict(list)
    for lane in seen.without_fallback:
        if lane.endpoint and not lane.state.is_away:
            found[lane.endpoint.rstrip("/").lower()].append(lane)
    for first, *others in found.values():
        if others:
            names = ", ".join(repr(lane.name) for lane in (first, *others))
            limit = sum(lane.limit for lane in (first, *others))
            yield Problem(
                "back_end_shared",
                first.name,
                f"lanes {names} serve one back end ({first.endpoint}) and give it {limit} chats at once in all: serve "
                "it by one lane, or share out what it takes with --capacity",
                warning=True,
            )


def _missing(seen: Snapshot) -> Iterator[Problem]:
    if not seen.routers:
        yield Problem("no_router", "", "no router: nothing is given to lanes; start a worker or `tokenlane router`")
    if not seen.without_fallback:
        yield Problem("no_lane", "", "no lane: nothing is answered; start `tokenlane worker` beside a model server")


def _unserved(seen: Snapshot) -> Iterator[Problem]:
    lanes = [lane for lane in seen.views if lane.state.takes_work]
    for queue in seen.queues:
        # One nobody has been heard of for is refused after that time; until then a worker may be on its way.
        if queue.oldest_ms < seen.policy.patience_ms:
            continue
        if next(candidates(seen.policy, queue.role, queue.needs, lanes, queue.kind), None) is None:
            yield Problem(
                "unserved",
                queue.role,
                f"role {queue.role!r}: {queue.waiting} of priority {queue.priority}{_wish(queue)} wait and no live "
                f"lane may serve them, the oldest for {queue.oldest_ms / 1000:.0f} s; start a worker on a lane of the "
                "role's route, or change the route",
            )


def _lanes(seen: Snapshot) -> Iterator[Problem]:
    for lane in seen.without_fallback:
        silent = f"for {lane.beat_ms / 1000:.0f} s"
        error = f"; its last error: {lane.error.code}" if lane.error else ""
        if lane.state == "gone":
            yield Problem(
                "lane_gone",
                lane.name,
                f"lane {lane.name!r} ({lane.endpoint}): no live worker {silent}{error}; start its worker again "
                "(a lane is forgotten an hour after its last beat)",
            )
        elif lane.lacks_key:
            yield Problem(
                "lane_closed",
                lane.name,
                f"lane {lane.name!r} ({lane.endpoint}): its worker lacks a key of the pool's, which its log "
                "names, and takes no work; start it again with the keys that `tokenlane key show --reveal` prints "
                "where the key is",
            )
        elif lane.state in ("down", "loading", "degraded") and lane.why:
            codes: Mapping[str, Code] = {"down": "lane_down", "loading": "lane_loading", "degraded": "lane_degraded"}
            yield Problem(codes[lane.state], lane.name, f"lane {lane.name!r} ({lane.endpoint}): {back_end(lane)}")
        elif lane.state == "down":
            yield Problem(
                "lane_closed",
                lane.name,
                f"lane {lane.name!r} ({lane.endpoint}): its worker beats and did not start what it was given{error}; "
                "it gets work again with its next beat; if this stays, see its log and start it again",
            )


def _keys(seen: Snapshot) -> Iterator[Problem]:
    closed = {worker.name for lane in seen.lanes if lane.lacks_key for worker in lane.workers}
    for key_id in (*seen.keys, *seen.retiring, *seen.prepared):
        prepared = key_id in seen.prepared
        for worker in seen.without_key(key_id):
            if worker.name in closed or (worker.keys is None and not prepared):
                continue  # told already; or joined, which takes all keys but those that are prepared
            lacks = "does not have" if worker.keys is not None else "is of an older tokenlane and may not have"
            which = f"key {key_id}, which is prepared: before `tokenlane key rotate`" if prepared else f"key {key_id}:"
            yield Problem(
                "key_missing",
                worker.lane,
                f"worker {worker.name!r} of lane {worker.lane!r} {lacks} {which} start it again with the keys that "
                "`tokenlane key show --reveal` prints where the key is",
            )


def _routes(seen: Snapshot) -> Iterator[Problem]:
    unknown = list(unknown_places(seen.policy, seen.views)) if seen.without_fallback else []
    for place in unknown:
        lost = sum(other.role == place.role for other in unknown) == len(seen.policy.roles[place.role].route)
        yield Problem(
            "route_unknown",
            place.role,
            f"{place.message}; start the worker of that place, or mend the route: `tokenlane policy apply`",
            warning=not lost,  # the role has other places
        )


def _toy(seen: Snapshot) -> Iterator[Problem]:
    serving = [lane for lane in seen.without_fallback if lane.state.takes_work]
    if serving and all(lane.provider == TOY_PROVIDER for lane in serving):
        yield Problem(
            "only_toy",
            "",
            "only the built-in model serves, a toy: start a model server (`tokenlane probe` says how); `tokenlane up` "
            "then serves that by itself",
            warning=True,
        )


def back_end(lane: LaneStatus) -> str:
    """What keeps a back end of the lane from being up, and what to do."""
    what = {
        "loading": "its back end loads its model",
        "degraded": "the back end of one of its workers cannot work, others serve the lane",
    }.get(lane.state, "its back end cannot work")
    return f"{what}: {lane.why.rstrip('.')}; its worker asks it all the time, and the lane takes work once it can"


def _waits(seen: Snapshot, max_wait_s: float) -> Iterator[Problem]:
    for role in seen.roles:
        if role.oldest_ms is not None and role.oldest_ms > 1000 * max_wait_s:
            yield Problem(
                "waits_long",
                role.role,
                f"role {role.role!r}: the oldest of {role.waiting} of priority {role.priority} waits for "
                f"{role.oldest_ms / 1000:.0f} s, more than {max_wait_s:g}; add lanes, or raise --max-wait",
            )


def _wish(queue: QueueStatus) -> str:
    wishes = {"provider": queue.provider, "model": queue.model}
    text = ", ".join(f"{name} {value!r}" for name, value in wishes.items() if value)
    return f" ({text})" if text else ""
