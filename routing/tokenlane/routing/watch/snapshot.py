"""A snapshot of a pool: immutable data, read at one moment, that all commands show.

As JSON it is the output of `tokenlane status --json` (docs/status.md). `v` changes if a field is removed or changes its
meaning; fields may be added at any time. Ages are in milliseconds before `time_ms`, which is from the server's clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.contract.wire import Kind, Priority
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import LaneView, Offer
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.wait_cause import PoolFacts, WaitCause, wait_cause

from .finding import Finding

SCHEMA_VERSION = 3
ROUTER_SILENT_MS, CLIENT_SILENT_MS = 3_000, 6_000
"""How long after its last beat a router is no longer among the pool's routers, and an agent's client is silent."""

WorkerState = LaneState | Literal["silent"]
"""The state that the lane would have if only this worker served it. After a lease without a heartbeat: `left` if it was
shut down in order, else `silent`."""


@dataclass(frozen=True)
class Rates:
    """Requests per second over the last minute: accepted, refused because of a limit, ended in each way, and tried
    again. `retried`: after their attempt ended; `recovered`: since their worker was lost."""

    accepted: float = 0.0
    completed: float = 0.0
    failed: float = 0.0
    cancelled: float = 0.0
    expired: float = 0.0
    refused: float = 0.0
    retried: float = 0.0
    recovered: float = 0.0

    @property
    def ended(self) -> float:
        """How many requests ended per second, in whatever way."""
        return self.completed + self.failed + self.cancelled + self.expired

    def __add__(self, other: Rates) -> Rates:
        return Rates(*(getattr(self, name) + getattr(other, name) for name in _RATES))


_RATES = tuple(each.name for each in fields(Rates))


@dataclass(frozen=True)
class QueueStatus:
    """A queue of waiting requests with the same role, kind, priority and needs."""

    role: str
    kind: Kind
    priority: Priority
    needs: Needs
    waiting: int
    oldest_ms: int

    @property
    def key(self) -> Queue:
        """What its requests share."""
        return Queue(self.role, self.kind, self.priority, self.needs)


@dataclass(frozen=True)
class Failures:
    """How many requests failed in the last minute with this error code on this lane; '' if no lane had the request."""

    code: str
    lane: str
    requests: int


@dataclass(frozen=True)
class RoleStatus:
    """One role at one priority. `running`: requests on lanes, started or not. `oldest_ms`: None if nothing waits.
    `failures`: the failed requests of the last minute, the most frequent failure first."""

    role: str
    priority: Priority
    waiting: int
    oldest_ms: int | None
    running: int
    rates: Rates
    failures: tuple[Failures, ...] = ()


@dataclass(frozen=True)
class LastError:
    """The code of a model server's newest error. The error's text is not kept, since it may quote a prompt."""

    code: str
    age_ms: int


@dataclass(frozen=True)
class WorkerStatus:
    """A worker. `host`, `versions` and `revision` are unknown for a moment after Redis lost its data. `report`: its
    counters since it started. `keys`: the ids of its pool keys; None from an older version, which does not report them.
    `why`: why its model server is not up."""

    name: str
    lane: str
    state: WorkerState
    host: str | None
    versions: Mapping[str, str]
    running: int
    beat_ms: int
    revision: int | None
    error: LastError | None
    report: WorkerReport = field(default_factory=WorkerReport)
    keys: tuple[str, ...] | None = None
    why: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether the worker has sent a heartbeat within a lease."""
        return self.state not in ("silent", LaneState.LEFT)


@dataclass(frozen=True)
class Slots:
    """A lane's slots for one kind of work: the limit, requests running, and requests given to it but not started."""

    limit: int = 0
    running: int = 0
    queued: int = 0


@dataclass(frozen=True)
class LaneStatus:
    """A lane. `slots`: by kind of work. `offer`: what its models can do. `error`: the newest of its workers. `why`: why
    the model server of one of its workers is not up, or that an operator drained the lane."""

    name: str
    state: LaneState
    provider: str
    endpoint: str
    models: tuple[str, ...]
    slots: Mapping[Kind, Slots]
    beat_ms: int
    error: LastError | None
    workers: tuple[WorkerStatus, ...]
    offer: Offer = field(default_factory=Offer)
    why: str = ""
    drained: bool = False

    @property
    def chats(self) -> Slots:
        """The lane's slots for chats; all 0 if it serves none."""
        return self.slots.get("chat", Slots())

    @property
    def silent_ms(self) -> int | None:
        """For how long the lane has run chats without a new token, by its workers' newest beats; 0 if it runs none.

        None if it is not known: a worker of an older version runs requests, whose tokens it does not tell of.
        """
        alive = [worker for worker in self.workers if worker.is_alive]
        if any(worker.running and not worker.report.tells_silence for worker in alive):
            return None
        reported = (worker.report.silent_ms for worker in alive)
        return min((silent_ms for silent_ms in reported if silent_ms is not None), default=0)

    @property
    def lacks_key(self) -> bool:
        """Whether its workers stopped accepting work because a request was sealed with a key that they lack."""
        if self.state != "draining" or self.drained:
            return False
        return self.error is not None and self.error.code == PoolKeyMismatch.code


@dataclass(frozen=True)
class RouterStatus:
    """A router.

    `revision`: the revision of the policy that it follows; None if it stands by. `internal_errors`: how many its
    process survived; a router inside a worker reports the worker's.
    """

    name: str
    beat_ms: int
    revision: int | None
    internal_errors: int = 0


@dataclass(frozen=True)
class ClientsStatus:
    """How many agents' clients the pool knows, and how many of them were silent for `CLIENT_SILENT_MS`."""

    known: int
    silent: int


@dataclass(frozen=True)
class Memory:
    """The Redis server's memory in bytes. `limit`: its `maxmemory`; 0 if it has none."""

    used: int
    limit: int


@dataclass(frozen=True)
class Snapshot:
    """A pool.

    Args:
        key_id: the newest key that seals requests; None if requests are not sealed.
        lanes: all lanes except the fallback lane. `fallback`: that lane, if the pool has it. `views`: all lanes, as
            routers see them.
        delayed: how many requests wait for a set time before their next attempt.
        swept_ms: time since a router last swept; None if no router ever has.
        lagging: routers and workers that have not read the newest policy.
        unknown: parts of the pool that this version cannot read.
        keys: every key that seals, the newest first. `retiring`: keys that no longer seal; `prepared`: keys that do not
            seal yet. All of them open requests.
        drained: the lanes that an operator drained, including lanes that the pool no longer knows.
        paused: the roles that an operator paused.
        unpaid_retries: retries taken from the retry budget and not yet paid back.
        memory: the Redis server's memory; None if the server does not let this user ask.
        sentinels: the findings about the Sentinels that the pool's URL names.
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
    unknown: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    retiring: tuple[str, ...] = ()
    prepared: tuple[str, ...] = ()
    fallback: LaneStatus | None = None
    views: tuple[LaneView, ...] = ()
    drained: tuple[str, ...] = ()
    paused: tuple[str, ...] = ()
    unpaid_retries: float = 0.0
    memory: Memory | None = None
    sentinels: tuple[Finding, ...] = ()

    @property
    def facts(self) -> PoolFacts:
        """What decides why requests wait."""
        return PoolFacts(self.pool, self.policy, self.views, bool(self.routers), self.paused)

    def roles_by_name(self) -> dict[str, list[RoleStatus]]:
        """Each role with its priorities. A paused role without requests has none."""
        by_name: defaultdict[str, list[RoleStatus]] = defaultdict(list, {role: [] for role in self.paused})
        for status in self.roles:
            by_name[status.role].append(status)
        return dict(by_name)

    def oldest_queue(self, role: RoleStatus) -> QueueStatus | None:
        """The queue in which the role's oldest request of this priority waits; None if none waits."""
        queues = (queue for queue in self.queues if (queue.role, queue.priority) == (role.role, role.priority))
        return max(queues, key=lambda queue: queue.oldest_ms, default=None)

    def cause_of(self, queue: QueueStatus) -> WaitCause:
        """Why the requests of a queue wait, the newest included."""
        return wait_cause(self.facts, queue.key, ahead=queue.waiting - 1)

    def without_key(self, key_id: str) -> tuple[WorkerStatus, ...]:
        """The live workers that do not report this key. Workers of an older version report no keys."""
        beating = (worker for lane in self.lanes for worker in lane.workers if worker.is_alive)
        return tuple(worker for worker in beating if worker.keys is None or key_id not in worker.keys)
