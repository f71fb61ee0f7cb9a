"""Reads a snapshot out of the reply of lua/snapshot.lua, where each part of that is described."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple, get_args

from pydantic import Json, TypeAdapter

from tokenlane.routing.lanes import Hits, Offer
from tokenlane.routing.messages import Kind, Priority
from tokenlane.routing.policy import Policy
from tokenlane.routing.queues import Queue

from .snapshot import (
    SCHEMA_VERSION,
    ClientsStatus,
    LaneState,
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

__all__ = ["read_snapshot"]

_ROUTER_SILENT_MS = 3_000


class _QueueReply(NamedTuple):
    name: str
    waiting: int
    oldest_ms: int


class _Job(NamedTuple):
    state: Literal["running", "dispatched"]
    worker: str
    role: str
    priority: Priority
    kind: Kind


class _LaneReply(NamedTuple):
    name: str
    provider: str
    endpoint: str
    models: Json[tuple[str, ...]]
    limit: int
    seen: int
    left: bool
    jobs: list[_Job]
    offer: Json[Offer]


class _WorkerReply(NamedTuple):
    name: str
    beat: int
    takes_new_work: bool
    lane: str
    host: str | None
    versions: Json[dict[str, str]] | None
    revision: int | None
    error: str
    error_at: int
    found: int
    asked: int


class _RouterReply(NamedTuple):
    name: str
    beat: int
    revision: int | None


class _ClientsReply(NamedTuple):
    known: int
    silent: int


class _Count(NamedTuple):
    role: str
    priority: Priority
    what: str
    requests: int


class _RatesReply(NamedTuple):
    window_ms: int
    counts: list[_Count]


class _Reply(NamedTuple):
    now: int
    revision: int
    document: str | None
    queues: list[_QueueReply]
    lanes: list[_LaneReply]
    workers: list[_WorkerReply]
    routers: list[_RouterReply]
    clients: _ClientsReply
    rates: _RatesReply
    delayed: int
    swept: int
    keys: str


@cache
def _adapter() -> TypeAdapter[_Reply]:
    return TypeAdapter(_Reply)


def read_snapshot(pool: str, answer: object) -> Snapshot:
    """The snapshot in the answer of the script."""
    reply = _adapter().validate_python(_decoded(answer))
    policy = Policy() if reply.document is None else Policy.model_validate_json(reply.document)
    policy = policy.model_copy(update={"revision": reply.revision})
    queues = tuple(sorted(map(_queue, reply.queues), key=lambda queue: (queue.role, _rank(queue.priority))))
    workers = tuple(_workers(reply, policy.lease_ms))
    routers = tuple(
        RouterStatus(router.name, reply.now - router.beat, router.revision)
        for router in sorted(reply.routers)
        if reply.now - router.beat <= _ROUTER_SILENT_MS
    )
    seen = (*((router.name, router.revision) for router in routers), *((it.name, it.revision) for it in workers))
    return Snapshot(
        v=SCHEMA_VERSION,
        pool=pool,
        time_ms=reply.now,
        revision=reply.revision,
        key_id=next(iter(reply.keys.split()), None),
        roles=tuple(_roles(reply, queues)),
        queues=queues,
        lanes=tuple(_lane(reply, lane, workers) for lane in sorted(reply.lanes)),
        routers=routers,
        clients=ClientsStatus(reply.clients.known, reply.clients.silent),
        delayed=reply.delayed,
        swept_ms=reply.now - reply.swept if reply.swept else None,
        lagging=tuple(name for name, revision in seen if revision not in (None, reply.revision)),
        policy=policy,
    )


def _decoded(answer: object) -> object:
    """The answer with text for bytes, which pydantic takes for no literal."""
    if isinstance(answer, list):
        return [_decoded(part) for part in answer]
    return answer.decode() if isinstance(answer, bytes) else answer


def _rank(priority: Priority) -> int:
    return get_args(Priority).index(priority)


def _queue(reply: _QueueReply) -> QueueStatus:
    queue = Queue.parse(reply.name)
    needs = queue.needs
    return QueueStatus(
        role=queue.role,
        kind=queue.kind,
        priority=queue.priority,
        provider=needs.provider,
        model=needs.model,
        lane=needs.lane,
        size=needs.size,
        input=needs.input,
        can=needs.can,
        waiting=reply.waiting,
        oldest_ms=reply.oldest_ms,
    )


def _workers(reply: _Reply, lease_ms: int) -> Iterator[WorkerStatus]:
    running = Counter(job.worker for lane in reply.lanes for job in lane.jobs if job.state == "running")
    for worker in sorted(reply.workers):
        age = reply.now - worker.beat
        yield WorkerStatus(
            name=worker.name,
            lane=worker.lane,
            state="silent" if age > lease_ms else "open" if worker.takes_new_work else "closed",
            host=worker.host,
            versions=worker.versions or {},
            running=running[worker.name],
            beat_ms=age,
            revision=worker.revision,
            error=LastError(worker.error, reply.now - worker.error_at) if worker.error else None,
            cache=Hits(worker.found, worker.asked),
        )


def _lane(reply: _Reply, lane: _LaneReply, workers: tuple[WorkerStatus, ...]) -> LaneStatus:
    own = tuple(worker for worker in workers if worker.lane == lane.name)
    states = {worker.state for worker in own}
    closed: LaneState = "draining" if lane.left else "closed"
    absent: LaneState = "left" if lane.left else "gone"
    errors = [worker.error for worker in own if worker.error is not None]
    count = Counter((job.kind, job.state) for job in lane.jobs)
    return LaneStatus(
        name=lane.name,
        state="open" if "open" in states else closed if "closed" in states else absent,
        provider=lane.provider,
        endpoint=lane.endpoint,
        models=lane.models,
        limit=lane.limit,
        running=count["chat", "running"],
        queued=count["chat", "dispatched"],
        beat_ms=reply.now - lane.seen,
        error=min(errors, key=lambda error: error.age_ms, default=None),
        workers=own,
        offer=lane.offer,
        beside={
            kind: Slots(lane.offer.limits[kind], count[kind, "running"], count[kind, "dispatched"])
            for kind in get_args(Kind)
            if kind in lane.offer.limits
        },
    )


def _roles(reply: _Reply, queues: tuple[QueueStatus, ...]) -> Iterator[RoleStatus]:
    """Every role and priority of which something waits, runs, or was counted lately."""
    running = Counter((job.role, job.priority) for lane in reply.lanes for job in lane.jobs)
    counted = {(count.role, count.priority) for count in reply.rates.counts}
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


def _rates(reply: _RatesReply, role: str, priority: Priority) -> Rates:
    counts = {count.what: count.requests for count in reply.counts if (count.role, count.priority) == (role, priority)}
    return Rates(**{what: round(1000 * requests / reply.window_ms, 3) for what, requests in counts.items()})
