"""Takes a snapshot of a pool: reads it out of the reply of lua/snapshot.lua, where each part of that is described.

Whatever workers and routers have announced may be of any version, or anybody's: what of it cannot be read is named in
`Snapshot.unknown`, and hides nothing else.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from functools import cache
from typing import TypeGuard, get_args

from pydantic import TypeAdapter, ValidationError

from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Priority
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.fallback import is_fallback
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.lanes.state import LaneFacts, lane_state
from tokenlane.routing.decide.order import Queue
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.lane import lane_of

from .snapshot import (
    SCHEMA_VERSION,
    ClientsStatus,
    LaneStatus,
    LastError,
    QueueStatus,
    Rates,
    RoleStatus,
    RouterStatus,
    Slots,
    Snapshot,
    WorkerStatus,
)
from .snapshot_reply import Job, LaneReply, RatesReply, SnapshotReply, decoded

_ROUTER_SILENT_MS = 3_000
_NUMBER = re.compile(r"[0-9]{1,15}")
_COUNTED = {field.name for field in fields(Rates)}


@cache
def _texts() -> TypeAdapter[dict[str, str]]:
    return TypeAdapter(dict[str, str])


async def take_snapshot(pool: Pool) -> Snapshot:
    """All that operators look at, of one moment.

    Raises:
        PoolUnavailable: the pool does not answer.
    """
    return read_snapshot(pool.keys.pool, await pool.snapshot_reply())


def read_snapshot(pool: str, answer: object) -> Snapshot:
    """The snapshot in the answer of the script."""
    reply = decoded(answer)
    policy = (_policy(reply.document) or Policy()).model_copy(update={"revision": reply.revision})
    queues = tuple(sorted(_queues(reply), key=lambda queue: (queue.role, _rank(queue.priority))))
    workers = tuple(_workers(reply, policy.lease_ms))
    lanes = sorted(((_view(reply, lane, workers), lane.jobs) for lane in reply.lanes), key=lambda lane: lane[0].name)
    routers = tuple(
        RouterStatus(router.name, reply.now - router.beat, _number(router.revision), router.survived)
        for router in sorted(reply.routers)
        if reply.now - router.beat <= _ROUTER_SILENT_MS
    )
    seen = (*((router.name, router.revision) for router in routers), *((it.name, it.revision) for it in workers))
    return Snapshot(
        v=SCHEMA_VERSION,
        pool=pool,
        time_ms=reply.now,
        revision=reply.revision,
        key_id=next(iter(reply.keys.sealing.split()), None),
        keys=tuple(reply.keys.sealing.split()),
        retiring=tuple(reply.keys.retiring.split()),
        prepared=tuple(reply.keys.prepared.split()),
        roles=tuple(_roles(reply, queues)),
        queues=queues,
        lanes=tuple(_lane(view, jobs, workers) for view, jobs in lanes if not is_fallback(view.name)),
        views=tuple(view for view, _ in lanes),
        routers=routers,
        clients=ClientsStatus(reply.clients.known, reply.clients.silent),
        delayed=reply.delayed,
        swept_ms=reply.now - reply.swept if reply.swept else None,
        lagging=tuple(name for name, revision in seen if revision not in (None, reply.revision)),
        policy=policy,
        unknown=tuple(_unknown(reply, [view for view, _ in lanes])),
    )


def _unknown(reply: SnapshotReply, lanes: Iterable[LaneView]) -> Iterator[str]:
    """What cannot be read, for people."""
    if _policy(reply.document) is None:
        yield f"the policy, revision {reply.revision}: its defaults are shown"
    for queue in reply.queues:
        if _parsed(queue.name) is None:
            yield f"the queue {queue.name!r}, in which {queue.waiting} wait"
    yield from _unknown_of_lanes(lanes)
    yield from _unknown_of_workers(reply)
    jobs = (job.priority for lane in reply.lanes for job in lane.jobs)
    for priority in sorted({*jobs, *(count.priority for count in reply.rates.counts)} - {*get_args(Priority)}):
        yield f"requests of priority {priority!r}"
    for what in sorted({count.what for count in reply.rates.counts} - _COUNTED):
        yield f"requests that were counted as {what!r}"


def _unknown_of_lanes(lanes: Iterable[LaneView]) -> Iterator[str]:
    shown = {"models": "none are shown", "limit": "it is shown as 0", "offer": "it is shown as one for chats alone"}
    for lane in lanes:
        for what in lane.unread:
            yield f"the {what} of lane {lane.name!r}: {shown[what]}"


def _unknown_of_workers(reply: SnapshotReply) -> Iterator[str]:
    for worker in reply.workers:
        if worker.versions is not None and _versions(worker.versions) is None:
            yield f"the versions of worker {worker.name!r}: none are shown"
        if _report(worker.report) is None:
            yield f"the report of worker {worker.name!r}: its counts are shown as 0"
    for kind, name, revision in (
        *(("worker", worker.name, worker.revision) for worker in reply.workers),
        *(("router", router.name, router.revision) for router in reply.routers),
    ):
        if revision is not None and _number(revision) is None:
            yield f"the policy revision of {kind} {name!r}"


def _policy(document: str | None) -> Policy | None:
    try:
        return Policy() if document is None else Policy.model_validate_json(document)
    except ValidationError:
        return None


def _parsed(name: str) -> Queue | None:
    try:
        return Queue.parse(name)
    except ValueError:
        return None


def _versions(document: str) -> dict[str, str] | None:
    try:
        return _texts().validate_json(document)
    except ValidationError:
        return None


def _report(document: str) -> WorkerReport | None:
    try:
        return WorkerReport.model_validate_json(document) if document else WorkerReport()
    except ValidationError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def _is_priority(word: str) -> TypeGuard[Priority]:
    return word in get_args(Priority)


def _rank(priority: Priority) -> int:
    return get_args(Priority).index(priority)


def _queues(reply: SnapshotReply) -> Iterator[QueueStatus]:
    for it in reply.queues:
        queue = _parsed(it.name)
        if queue is None:
            continue
        needs = queue.needs
        yield QueueStatus(
            role=queue.role,
            kind=queue.kind,
            priority=queue.priority,
            provider=needs.provider,
            model=needs.model,
            lane=needs.lane,
            size=needs.size,
            input=needs.input,
            can=needs.can,
            avoid=needs.avoid,
            waiting=it.waiting,
            oldest_ms=it.oldest_ms,
        )


def _workers(reply: SnapshotReply, lease_ms: int) -> Iterator[WorkerStatus]:
    running = Counter(job.worker for lane in reply.lanes for job in lane.jobs if job.state == "running")
    for worker in sorted(reply.workers):
        age = reply.now - worker.beat
        state = lane_state(LaneFacts(worker.told, takers=int(worker.takes_new_work)))
        yield WorkerStatus(
            name=worker.name,
            lane=worker.lane,
            state="silent" if age > lease_ms else state,
            host=worker.host,
            versions=_versions(worker.versions or "{}") or {},
            running=running[worker.name],
            beat_ms=age,
            revision=_number(worker.revision),
            error=LastError(worker.error, reply.now - worker.error_at) if worker.error else None,
            report=_report(worker.report) or WorkerReport(),
            keys=None if worker.keys is None else tuple(worker.keys.split()),
            why=worker.why,
        )


def _view(reply: SnapshotReply, lane: LaneReply, workers: tuple[WorkerStatus, ...]) -> LaneView:
    """The lane as routers see it, and what its workers say for themselves beside."""
    view = lane_of(reply.lane_facts, lane.known)
    states = [worker.state for worker in workers if worker.lane == view.name and worker.state != "silent"]
    unready = sum(state.is_unready for state in states)
    return replace(view, facts=replace(view.facts, beats=bool(states), unready=unready))


def _lane(view: LaneView, jobs: list[Job], workers: tuple[WorkerStatus, ...]) -> LaneStatus:
    own = tuple(worker for worker in workers if worker.lane == view.name)
    errors = [worker.error for worker in own if worker.error is not None]
    reasons = (worker.why for worker in own if worker.why and worker.state != "silent")
    count = Counter((job.kind, job.state) for job in jobs)
    return LaneStatus(
        name=view.name,
        state=view.state,
        provider=view.provider,
        endpoint=view.endpoint,
        models=view.models,
        slots={
            kind: Slots(limit, count[kind, "running"], count[kind, "dispatched"])
            for kind in KINDS
            if (limit := view.offer.limits.get(kind)) is not None
        },
        beat_ms=view.beat_ms,
        error=min(errors, key=lambda error: error.age_ms, default=None),
        workers=own,
        offer=view.offer,
        why=view.why if view.state.is_unready else next(reasons, ""),
    )


def _roles(reply: SnapshotReply, queues: tuple[QueueStatus, ...]) -> Iterator[RoleStatus]:
    """Every role and priority of which something waits, runs, or was counted lately."""
    jobs = (job for lane in reply.lanes for job in lane.jobs)
    running = Counter((job.role, job.priority) for job in jobs if _is_priority(job.priority))
    counted = {(count.role, count.priority) for count in reply.rates.counts if _is_priority(count.priority)}
    waits = {(queue.role, queue.priority) for queue in queues}
    for role, priority in sorted({*running, *counted, *waits}, key=lambda key: (key[0], _rank(key[1]))):
        here = [queue for queue in queues if (queue.role, queue.priority) == (role, priority)]
        yield RoleStatus(
            role=role,
            priority=priority,
            waiting=sum(queue.waiting for queue in here),
            oldest_ms=max((queue.oldest_ms for queue in here), default=None),
            running=running[role, priority],
            rates=_rates(reply.rates, role, priority),
        )


def _rates(reply: RatesReply, role: str, priority: Priority) -> Rates:
    own = (it for it in reply.counts if (it.role, it.priority) == (role, priority) and it.what in _COUNTED)
    counts = {count.what: count.requests for count in own}
    return Rates(**{what: round(1000 * requests / reply.window_ms, 3) for what, requests in counts.items()})
