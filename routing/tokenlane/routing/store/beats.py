"""Signs of life: workers renew, clients check, routers sweep; and what becomes of the work of those who give none.

Every method may be retried: a script sent twice answers as it did the first time.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from pydantic import TypeAdapter, ValidationError

from tokenlane.routing.contract.results import Progress
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import Announcement, Facts, Fault, LaneView, Running
from tokenlane.routing.decide.lanes.state import UP, Condition
from tokenlane.routing.support.tasks import InternalErrors

from .keychain import Keychain
from .replies.lane import read_lanes
from .replies.lapsed import LapsedAttempt, read_lapsed
from .replies.values import Reply, as_bytes, as_int, as_list, as_text
from .request_life import Standing, read_standing
from .scripts import Scripts
from .server import Urgency

Hold = Literal["mine", "stale", "cancelled", "expired"]

_NO_REPORT = WorkerReport()
_progress: TypeAdapter[dict[str, Progress]] = TypeAdapter(dict[str, Progress])


@dataclass(frozen=True)
class Beat:
    """The answer to a worker's beat. `conflict`: the endpoint that holds the lane's name, if it is another one.

    `registered`: the server has the worker's facts.
    """

    conflict: str | None
    lease_ms: int
    holds: tuple[Hold, ...]
    registered: bool = True


@dataclass(frozen=True)
class Checked:
    """The answer to a client's beat. `absent`: lanes that take no work now, since their workers or their back ends are
    away. `revision`: the policy's. `pulls`: by lane, the models it pulls now. `lease_ms` and `patience_ms`: as the
    policy has them. `strangers`: ids the server has of this client, if it has more than the client holds: all of them,
    or some. `lapsed`: attempts of the requests asked about of which nobody has said what becomes of them."""

    routers: int
    lanes: int
    absent: tuple[LaneView, ...]
    revision: int
    pulls: Mapping[str, Mapping[str, Progress]]
    standings: tuple[Standing, ...]
    lease_ms: int
    patience_ms: int
    strangers: tuple[str, ...] = ()
    lapsed: tuple[LapsedAttempt, ...] = ()


@dataclass(frozen=True)
class Swept:
    """What a sweep did, and what is left to do. Ranks 0 and 1 sweep, the others only ask for their rank.

    `more`: some of it is due already. `lapsed`: what is to be decided. `waits`, `runs`: some request does. `due_ms`:
    after so many milliseconds something is due of which no doorbell tells: a delay ends, a deadline passes, or a client
    has not beaten for too long. `revision`: the policy's.
    """

    rank: int
    more: bool
    lapsed: tuple[LapsedAttempt, ...] = ()
    waits: bool = False
    runs: bool = False
    due_ms: float = math.inf
    revision: int = 0


class Beats:
    """The beats of all who work on a pool."""

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
        takes_new_work: bool,
        condition: Condition = UP,
        fault: Fault | None = None,
        report: WorkerReport = _NO_REPORT,
    ) -> Beat:
        """A worker's beat: announces its lane, and renews the leases of all it runs.

        Args:
            takes_new_work: it does while its back end is up; False: it stops.
            condition: of its back end.
            fault: the newest error of its back end, until an answer says that the worker is registered.
            report: what it has counted, for those who watch.
        """
        told = (fault.code, int(1000 * (asyncio.get_running_loop().time() - fault.at))) if fault else ("", 0)
        held = [
            part
            for one in running
            for part in (one.id, one.attempt, one.client, one.agent, one.role, one.kind, one.left_ms)
        ]
        reply = await self._scripts.run(
            "renew",
            *(worker, lane.lane, condition.state if takes_new_work else "draining"),
            *(lane.provider, lane.endpoint, json.dumps(lane.models)),
            *(lane.offer.limit_of("chat"), lane.offer.model_dump_json()),
            *(*told, report.model_dump_json(), condition.why, *held),
            urgency=Urgency.BEAT,
        )
        return _beat(reply)

    async def register(self, worker: str, lane: str, facts: Facts) -> None:
        """Say what does not change while a worker lives, for those who watch the pool."""
        await self._scripts.run(
            "register", worker, lane, facts.host, json.dumps(dict(facts.versions)), self._keychain.held
        )

    async def bury(self, worker: str) -> int:
        """Give back what a worker ran whose process has surely ended; how many requests that was."""
        return as_int(await self._scripts.run("bury", worker))

    async def check(self, client: str, request_ids: Sequence[str] = (), *, held: int | None = None) -> Checked:
        """A client's beat, and how those of its streams stand that it asks for (128 at most).

        Args:
            held: how many requests the client holds; None: it does not ask for `strangers`.
        """
        return _checked(
            await self._scripts.run("check", client, "" if held is None else held, *request_ids, urgency=Urgency.BEAT)
        )

    async def leave(self, client: str) -> None:
        """Forget a client; what it still holds is cancelled by the next sweep."""
        await self._scripts.run("leave", client)

    async def sweep(self, router: str, *, rank_only: bool = False, revision: int | None = None) -> Swept:
        """Look after leases, delays, deadlines and vanished clients.

        Args:
            router: `host/name`.
            rank_only: only ask for the rank.
            revision: of the policy by which the router decides; None if it decides nothing.
        """
        decides_by = "" if revision is None else revision
        args = (router, 0 if rank_only else 1, decides_by, self._internal_errors.count)
        return _swept(await self._scripts.run("sweep", *args, urgency=Urgency.BEAT))


def _beat(reply: Reply) -> Beat:
    status, endpoint, lease_ms, registered, *holds = as_list(reply)
    conflict = as_text(endpoint) if as_text(status) == "conflict" else None
    return Beat(conflict, as_int(lease_ms), tuple(cast("Hold", as_text(it)) for it in holds), as_int(registered) == 1)


def _checked(reply: Reply) -> Checked:
    routers, lanes, absent, revision, pulls, lease_ms, patience_ms, strangers, *rest = as_list(reply)
    lapsed, *standings = rest
    return Checked(
        routers=as_int(routers),
        lanes=as_int(lanes),
        absent=read_lanes(absent),
        revision=as_int(revision),
        pulls={as_text(lane): _pulls_in(as_bytes(document)) for lane, document in map(as_list, as_list(pulls))},
        standings=tuple(_checked_standing(as_list(standing)) for standing in standings),
        lease_ms=as_int(lease_ms),
        patience_ms=as_int(patience_ms),
        strangers=tuple(map(as_text, as_list(strangers))),
        lapsed=read_lapsed(lapsed),
    )


def _checked_standing(reply: list[Reply]) -> Standing:
    *standing, lapses_ms = reply
    lapses = as_int(lapses_ms)
    return replace(read_standing(standing), lapses_ms=lapses if lapses >= 0 else None)


def _pulls_in(document: bytes) -> dict[str, Progress]:
    """What a lane says that it pulls; of what cannot be read the lane's offer says more, in `status`."""
    try:
        return _progress.validate_json(document)
    except ValidationError:
        return {}


def _swept(reply: Reply) -> Swept:
    rank, more, lapsed, waits, runs, due_ms, revision = as_list(reply)
    left_ms = as_int(due_ms)
    return Swept(
        rank=as_int(rank),
        more=as_int(more) == 1,
        lapsed=read_lapsed(lapsed),
        waits=as_int(waits) == 1,
        runs=as_int(runs) == 1,
        due_ms=left_ms if left_ms >= 0 else math.inf,
        revision=as_int(revision),
    )
