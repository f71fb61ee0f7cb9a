"""The beats by which workers, clients and routers show that they are alive, and the replies to these beats.

Every method may be retried, because a script that runs twice returns the same reply.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from pydantic import TypeAdapter

from tokenlane.routing.contract.results import Progress
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import Announcement, LaneView, Running, ServerFailure, WorkerInfo
from tokenlane.routing.decide.lanes.state import UP, ServerCondition
from tokenlane.routing.support.tasks import InternalErrors

from .keychain import Keychain
from .replies.lane import parse_lanes
from .replies.lapsed import LapsedAttempt, parse_lapsed
from .replies.values import Reply, as_int, as_list, as_text, parse_waiting
from .request_life import RequestStatus, parse_status
from .scripts import Scripts
from .server import Urgency

RenewOutcome = Literal["mine", "stale", "cancelled", "expired"]

_NO_REPORT = WorkerReport()
_progress: TypeAdapter[dict[str, Progress]] = TypeAdapter(dict[str, Progress])


@dataclass(frozen=True)
class RenewReply:
    """The reply to a worker's beat.

    Attributes:
        conflict: the endpoint of live workers that use the same lane name for another endpoint; None if there are none.
        lease_ms: the policy's lease.
        outcomes: for each attempt in the beat, in order: `mine` if the worker still holds it; `stale` if it does not;
            `cancelled` or `expired` if the worker must end the request in this way.
        registered: whether the server has the worker's `WorkerInfo`.
    """

    conflict: str | None
    lease_ms: int
    outcomes: tuple[RenewOutcome, ...]
    registered: bool = True


@dataclass(frozen=True)
class CheckReply:
    """The reply to a client's beat.

    Attributes:
        routers: how many routers are alive.
        known_lanes: how many lanes had a worker in the last hour.
        revision: the policy's revision.
        lease_ms: the policy's lease.
        patience_ms: the policy's patience.
        statuses: the states of the requests that the client asked about, in the order of the ids.
        strangers: if the server has more requests of this client than the client, the ids of these requests, at most
            1,000.
        lapsed: the attempts, among the requests that the client asked about, whose lease has lapsed.
        lanes: if one of the requests waits, the lanes of the pool, at most 64; None if none waits.
        paused: if one of the requests waits, the roles that an operator paused.
    """

    routers: int
    known_lanes: int
    revision: int
    lease_ms: int
    patience_ms: int
    statuses: tuple[RequestStatus, ...] = ()
    strangers: tuple[str, ...] = ()
    lapsed: tuple[LapsedAttempt, ...] = ()
    lanes: tuple[LaneView, ...] | None = None
    paused: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepReply:
    """The reply to a router's beat. Routers of rank 0 and 1 sweep; the others only ask for their rank.

    Attributes:
        rank: the router's place among all live routers, from 0.
        more: whether work is left for another sweep.
        lapsed: the attempts whose lease has lapsed, for the router to recover.
        waits: whether any request waits.
        runs: whether any request is dispatched or runs.
        due_ms: time until the next event for which no doorbell rings: a delay ends, a deadline passes, or a client has
            been silent for too long. Infinity if no such event is due. For a router that only asked for its rank: the
            time within which to ask again.
        revision: the policy's revision.
    """

    rank: int
    more: bool
    lapsed: tuple[LapsedAttempt, ...] = ()
    waits: bool = False
    runs: bool = False
    due_ms: float = math.inf
    revision: int = 0


class Beats:
    """Sends the beats of a pool's workers, clients and routers."""

    def __init__(self, scripts: Scripts, keychain: Keychain, internal_errors: InternalErrors) -> None:
        self._scripts = scripts
        self._keychain = keychain
        self._internal_errors = internal_errors

    async def renew(
        self,
        worker: str,
        lane: Announcement,
        running: Sequence[Running],
        *,
        accepts_new_work: bool,
        condition: ServerCondition = UP,
        fault: ServerFailure | None = None,
        report: WorkerReport = _NO_REPORT,
    ) -> RenewReply:
        """Send a worker's beat: announce its lane, and renew the leases of all attempts that it runs.

        Args:
            lane: the worker's lane, with what the lane offers.
            running: the requests that the worker runs.
            accepts_new_work: whether the worker accepts new work. A worker that is draining does not.
            condition: the condition of the worker's model server.
            fault: the latest error from the model server; None once a reply with `registered` has confirmed it.
            report: the worker's counters, for operators.
        """
        error = (fault.code, int(1000 * (asyncio.get_running_loop().time() - fault.at))) if fault else ("", 0)
        attempts = (
            part for it in running for part in (it.id, it.attempt, it.client, it.agent, it.role, it.kind, it.left_ms)
        )
        reply = await self._scripts.run(
            "renew",
            *(worker, lane.lane, condition.state if accepts_new_work else "draining"),
            *(lane.provider, lane.endpoint, json.dumps(lane.models)),
            *(lane.offer.limit_of("chat"), lane.offer.model_dump_json()),
            *(*error, report.model_dump_json(), condition.why, self._keychain.announced, *attempts),
            urgency=Urgency.BEAT,
        )
        status, endpoint, lease_ms, registered, *outcomes = as_list(reply)
        return RenewReply(
            conflict=as_text(endpoint) if as_text(status) == "conflict" else None,
            lease_ms=as_int(lease_ms),
            outcomes=tuple(cast("RenewOutcome", as_text(outcome)) for outcome in outcomes),
            registered=as_int(registered) == 1,
        )

    async def register(self, worker: str, lane: str, info: WorkerInfo) -> None:
        """Store a worker's lane, host and versions and the ids of its pool keys, for operators."""
        versions = json.dumps(dict(info.versions))
        await self._scripts.run("register", worker, lane, info.host, versions, self._keychain.held)

    async def bury(self, worker: str) -> None:
        """Report that a worker's process has ended. The leases of its requests lapse at the next sweep."""
        await self._scripts.run("bury", worker)

    async def check(self, client: str, request_ids: Sequence[str] = (), *, held: int | None = None) -> CheckReply:
        """Send a client's beat, and ask for the states of some requests.

        Args:
            request_ids: the ids of the requests to ask about, at most 128.
            held: how many requests the client has; None if the client does not ask for `strangers`.
        """
        args = (client, "" if held is None else held, self._keychain.announced, *request_ids)
        return _parse_check(await self._scripts.run("check", *args, urgency=Urgency.BEAT))

    async def leave(self, client: str) -> None:
        """Send a client's last beat. The next sweep cancels the requests that the client still owns."""
        await self._scripts.run("leave", client)

    async def sweep(self, router: str, *, rank_only: bool = False, revision: int | None = None) -> SweepReply:
        """Send a router's beat, and sweep: act on leases, delays and deadlines that are over, and on vanished clients.

        Args:
            router: the router's name, `HOST/NAME`.
            rank_only: only ask for the rank, without a sweep.
            revision: the revision of the policy that the router follows; None for a router that stands by.
        """
        policy = "" if revision is None else revision
        args = (router, 0 if rank_only else 1, policy, self._internal_errors.count)
        return _parse_sweep(await self._scripts.run("sweep", *args, urgency=Urgency.BEAT))


def _parse_check(reply: Reply) -> CheckReply:
    routers, known, revision, lease_ms, patience_ms, strangers, lapsed, lanes, paused, *rest = as_list(reply)
    return CheckReply(
        routers=as_int(routers),
        known_lanes=as_int(known),
        revision=as_int(revision),
        lease_ms=as_int(lease_ms),
        patience_ms=as_int(patience_ms),
        statuses=tuple(map(_parse_status, rest)),
        strangers=tuple(map(as_text, as_list(strangers))),
        lapsed=parse_lapsed(lapsed),
        lanes=parse_lanes(lanes) if as_list(lanes) else None,
        paused=tuple(map(as_text, as_list(paused))),
    )


def _parse_status(reply: Reply) -> RequestStatus:
    *fields, lapses_ms, waiting = as_list(reply)
    status = parse_status(fields, as_int(lapses_ms))
    return replace(status, waiting=parse_waiting(status.state, waiting))


def _parse_sweep(reply: Reply) -> SweepReply:
    rank, more, lapsed, waits, runs, due_ms, revision = as_list(reply)
    left_ms = as_int(due_ms)
    return SweepReply(
        rank=as_int(rank),
        more=as_int(more) == 1,
        lapsed=parse_lapsed(lapsed),
        waits=as_int(waits) == 1,
        runs=as_int(runs) == 1,
        due_ms=left_ms if left_ms >= 0 else math.inf,
        revision=as_int(revision),
    )
