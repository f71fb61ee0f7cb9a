"""A pool at one moment: one frozen tree, read in one round trip. What is shown of a pool is shown from it.

Written as JSON it is the schema of `tokenlane status --json` (docs/status.md). `v` changes when a field goes or changes
its meaning; new fields may come at any time. Ages are milliseconds before `time_ms`, which is the server's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import PoolKeyMismatch
from tokenlane.routing.contract.wire import Kind, Priority
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import LaneView, Offer
from tokenlane.routing.decide.lanes.state import LaneState
from tokenlane.routing.decide.policy import Policy

SCHEMA_VERSION = 3

WorkerState = LaneState | Literal["silent"]
"""As its lane's would be if no other worker served that; or it has not beaten for a lease."""


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
    `size` and `input`: tokens, of all and of the prompt. `can`: what the model should be able to do as well. `avoid`:
    lanes on which they failed."""

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
    avoid: tuple[str, ...] = ()

    @property
    def needs(self) -> Needs:
        """What a lane must offer to serve them."""
        return Needs(
            provider=self.provider,
            model=self.model,
            lane=self.lane,
            size=self.size,
            input=self.input,
            can=self.can,
            avoid=self.avoid,
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
    """A worker. `host`, `versions` and `revision` are unknown for a moment after the server has lost them. `report`:
    what it has counted since it started. `keys`: the ids of the pool keys it has, None if it does not say, as older
    versions do not. `why`: what keeps its back end from being up."""

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


@dataclass(frozen=True)
class Slots:
    """Of one kind of work on a lane: requests at once, started, given to it and not started yet."""

    limit: int = 0
    running: int = 0
    queued: int = 0


@dataclass(frozen=True)
class LaneStatus:
    """A lane. `slots`: of each kind of work it takes. `offer`: what its models can do. `error`: its workers' newest.
    `why`: what keeps a back end of its workers from being up."""

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

    @property
    def chats(self) -> Slots:
        """Those of chats."""
        return self.slots.get("chat", Slots())

    @property
    def lacks_key(self) -> bool:
        """Its workers take no new work since they met a request under a key of the pool's which they do not have."""
        return self.state == "draining" and self.error is not None and self.error.code == PoolKeyMismatch.code


@dataclass(frozen=True)
class RouterStatus:
    """A router. `revision`: of the policy by which it decides; None for one in reserve, which decides nothing.
    `internal_errors`: how many its process has survived; for one in a worker these are the worker's."""

    name: str
    beat_ms: int
    revision: int | None
    internal_errors: int = 0


@dataclass(frozen=True)
class ClientsStatus:
    """Agents' clients: all the pool knows, and those of them that are silent for 6 s."""

    known: int
    silent: int


@dataclass(frozen=True)
class Snapshot:
    """The pool.

    `key_id`: of the key that seals it, None if none does; `keys`: of all that seal, the newest first; `retiring` and
    `prepared`: of those that seal no more, and not yet. All of them open. `delayed`: requests that wait for a time.
    `swept_ms`: since a router last swept, None if none has. `lagging`: routers and workers that have not seen the
    policy's newest revision. `unknown`: what another version, or anybody, has written and this one cannot read, for
    people. `lanes`: those of back ends. `views`: all lanes, as routers know them.
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
    views: tuple[LaneView, ...] = ()

    def without_key(self, key_id: str) -> tuple[WorkerStatus, ...]:
        """The workers that beat and do not say that they have the key: `keys` of those that cannot say it is None."""
        beating = (worker for lane in self.lanes for worker in lane.workers if worker.state != "silent")
        return tuple(worker for worker in beating if worker.keys is None or key_id not in worker.keys)
