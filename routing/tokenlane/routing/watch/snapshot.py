"""A pool at one moment: one frozen tree, read in one round trip. What is shown of a pool is shown from it.

Written as JSON it is the schema of `tokenlane status --json` (docs/status.md). `v` changes when a field goes or changes
its meaning; new fields may come at any time. Ages are milliseconds before `time_ms`, which is the server's clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple, get_args

from pydantic import Json, TypeAdapter

from tokenlane.config.values import FALLBACK_LANE
from tokenlane.routing.lanes import Hits, LaneView, Offer
from tokenlane.routing.messages import Kind, Needs, Priority
from tokenlane.routing.policy import Policy
from tokenlane.routing.queues import Queue

__all__ = [
    "SCHEMA_VERSION",
    "ClientsStatus",
    "LaneState",
    "LaneStatus",
    "LastError",
    "QueueStatus",
    "Rates",
    "RoleStatus",
    "RouterStatus",
    "Slots",
    "Snapshot",
    "WorkerState",
    "WorkerStatus",
    "read_snapshot",
]

SCHEMA_VERSION = 1

LaneState = Literal["open", "draining", "closed", "left", "gone"]
"""A worker takes new work; workers beat and none takes any, because they stop or because they did not start what they
were given; no worker beats, because it was stopped or because it vanished."""
WorkerState = Literal["open", "closed", "silent"]
"""Takes new work; beats and takes none; has not beaten for a lease."""

_ROUTER_SILENT_MS = 3_000


@dataclass(frozen=True)
class Rates:
    """Requests a second, over the last minute: taken in, and ended in each way."""

    accepted: float = 0.0
    completed: float = 0.0
    failed: float = 0.0
    cancelled: float = 0.0
    expired: float = 0.0


@dataclass(frozen=True)
class QueueStatus:
    """Requests that wait together: the same role, priority and needs. `model`, `provider` and `lane`: those asked for.
    `size` and `input`: tokens, of all and of the prompt. `can`: what the model should be able to do as well."""

    role: str
    kind: Kind
    priority: Priority
    provider: str | None
    model: str | None
    size: int
    waiting: int
    oldest_ms: int
    lane: str | None = None
    input: int = 0
    can: tuple[str, ...] = ()

    @property
    def needs(self) -> Needs:
        """What a lane must offer to serve them."""
        return Needs(
            provider=self.provider, model=self.model, lane=self.lane, size=self.size, input=self.input, can=self.can
        )


@dataclass(frozen=True)
class RoleStatus:
    """One role at one priority. `running`: given to lanes, started or not. `oldest_ms`: None if nothing waits."""

    role: str
    priority: Priority
    waiting: int
    oldest_ms: int | None
    running: int
    rates: Rates


@dataclass(frozen=True)
class LastError:
    """The newest error of a back end, by its code; its text is never kept."""

    code: str
    age_ms: int


@dataclass(frozen=True)
class WorkerStatus:
    """A worker. `host`, `versions` and `revision` are unknown for a moment after the server has lost them. `cache`:
    what its cache of vectors was asked for since it started."""

    name: str
    lane: str
    state: WorkerState
    host: str | None
    versions: Mapping[str, str]
    running: int
    beat_ms: int
    revision: int | None
    error: LastError | None
    cache: Hits = field(default_factory=Hits)


@dataclass(frozen=True)
class Slots:
    """Of one kind of work on a lane: requests at once, started, given to it and not started yet."""

    limit: int
    running: int
    queued: int


@dataclass(frozen=True)
class LaneStatus:
    """A lane. `limit`: chats at once; `running`: of them started; `queued`: given to it and not started yet. `beside`:
    the other kinds of work it takes. `offer`: what its models can do. `error`: its workers' newest."""

    name: str
    state: LaneState
    provider: str
    endpoint: str
    models: tuple[str, ...]
    limit: int
    running: int
    queued: int
    beat_ms: int
    error: LastError | None
    workers: tuple[WorkerStatus, ...]
    offer: Offer = field(default_factory=Offer)
    beside: Mapping[Kind, Slots] = field(default_factory=dict)


@dataclass(frozen=True)
class RouterStatus:
    """A router. `revision`: of the policy by which it decides; None for one in reserve, which decides nothing."""

    name: str
    beat_ms: int
    revision: int | None


@dataclass(frozen=True)
class ClientsStatus:
    """Agents' clients: all the pool knows, and those of them that are silent for 6 s."""

    known: int
    silent: int


@dataclass(frozen=True)
class Snapshot:
    """The pool.

    `key_id`: of the key that seals it, None if none does. `delayed`: requests that wait for a time. `swept_ms`: since a
    router last swept, None if none has. `lagging`: routers and workers that have not seen the policy's newest revision.
    """

    v: int
    pool: str
    time_ms: int
    revision: int
    key_id: str | None
    roles: tuple[RoleStatus, ...]
    queues: tuple[QueueStatus, ...]
    lanes: tuple[LaneStatus, ...]
    routers: tuple[RouterStatus, ...]
    clients: ClientsStatus
    delayed: int
    swept_ms: int | None
    lagging: tuple[str, ...]
    policy: Policy

    @property
    def without_fallback(self) -> tuple[LaneStatus, ...]:
        """The lanes of back ends: every worker has one, and serves the fallback lane beside it."""
        return tuple(lane for lane in self.lanes if lane.name != FALLBACK_LANE)

    def lane_views(self) -> tuple[LaneView, ...]:
        """The lanes as routers see them."""
        return tuple(
            LaneView(
                name=lane.name,
                provider=lane.provider,
                endpoint=lane.endpoint,
                models=lane.models,
                limit=lane.limit,
                queued=lane.running + lane.queued,
                workers=int(lane.state == "open"),
                seen_ms=self.time_ms - lane.beat_ms,
                offer=lane.offer,
                beside={kind: slots.running + slots.queued for kind, slots in lane.beside.items()},
            )
            for lane in self.lanes
        )


# The reply of lua/snapshot.lua, where each part is described.


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
