"""What scripts reply, as types; a function for each script whose reply is more than a word reads it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, cast

from pydantic import TypeAdapter, ValidationError

from tokenlane.routing.contract.messages import Envelope, Progress
from tokenlane.routing.decide.lanes.offer import LaneView, Offer, lane_state, models_in
from tokenlane.routing.decide.order import Head, Queue, Turn

__all__ = [
    "Accepted",
    "Attachment",
    "Beat",
    "Checked",
    "Ending",
    "Hold",
    "Reply",
    "Standing",
    "Started",
    "State",
    "Survey",
    "Swept",
    "as_bytes",
    "as_int",
    "as_list",
    "as_text",
    "read_attachment",
    "read_beat",
    "read_checked",
    "read_started",
    "read_survey",
    "read_swept",
]

logger = logging.getLogger(__name__)

Reply = list["Reply"] | bytes | int | None

_progress: TypeAdapter[dict[str, Progress]] = TypeAdapter(dict[str, Progress])

Ending = Literal["completed", "failed", "cancelled", "expired"]
State = Literal["missing", "waiting", "delayed", "dispatched", "running", "completed", "failed", "cancelled", "expired"]
Hold = Literal["mine", "stale", "cancelled", "expired"]


@dataclass(frozen=True)
class Accepted:
    """The request is in its role's stream. `id`: the request's, or that of the one that has its idempotency key and has
    not ended. `revision`: the policy's."""

    id: str
    revision: int


@dataclass(frozen=True)
class Started:
    """What a worker is given to run. `starts`: how often the request was started, this time included.

    `payload` is as the agent sealed it: `Keychain.unseal` opens it.
    """

    attempt: int
    envelope: Envelope
    payload: bytes = field(repr=False)
    model: str
    starts: int
    left_ms: int
    waited_ms: int
    cancelled: bool


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
class Standing:
    """How a request stands. `end`: how many deltas its answer has, once it has ended. `owner`: the client that keeps it
    alive; '' where the server has learnt of the request from its worker only. `lapses_ms`: how long the lease of its
    attempt lasts, if it is not renewed; None where there is no lease, or nobody has asked."""

    state: State
    attempt: int
    worker: str
    end: int | None
    code: str
    owner: str
    lapses_ms: int | None = None


@dataclass(frozen=True)
class Attachment:
    """How a request stands that a client has taken over, and what that client must know of it."""

    standing: Standing
    role: str
    left_ms: int


@dataclass(frozen=True)
class Checked:
    """The answer to a client's beat. `absent`: lanes that take no work now, since their workers or their back ends are
    away. `revision`: the policy's. `pulls`: by lane, the models it pulls now. `lease_ms` and `patience_ms`: as the
    policy has them. `strangers`: ids the server has of this client, if it has more than the client holds: all of them,
    or some."""

    now_ms: int = field(compare=False)
    routers: int
    lanes: int
    absent: tuple[LaneView, ...]
    revision: int
    pulls: Mapping[str, Mapping[str, Progress]]
    standings: tuple[Standing, ...]
    lease_ms: int
    patience_ms: int
    strangers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Swept:
    """What a sweep did. Ranks 0 and 1 sweep, the others only ask for their rank."""

    rank: int
    more: bool
    requeued: int
    revived: int
    expired: int
    orphaned: int


@dataclass(frozen=True)
class Survey:
    """What routers decide on, all of one moment. `watched_ms`: for how long the pool has been looked at without a gap:
    lanes that live may not have been heard of since a server came back or was wiped."""

    now_ms: int
    revision: int
    heads: tuple[Head, ...]
    lanes: tuple[LaneView, ...]
    watched_ms: float = math.inf


def read_started(reply: Reply) -> Started | None:
    outcome, *rest = as_list(reply)
    if as_text(outcome) != "run":
        return None
    attempt, document, payload, model, starts, left_ms, waited_ms, cancelled = rest
    envelope = _envelope(as_bytes(document))
    if envelope is None:
        return None
    return Started(
        attempt=as_int(attempt),
        envelope=envelope,
        payload=as_bytes(payload),
        model=as_text(model),
        starts=as_int(starts),
        left_ms=as_int(left_ms),
        waited_ms=as_int(waited_ms),
        cancelled=as_int(cancelled) == 1,
    )


def _envelope(document: bytes) -> Envelope | None:
    try:
        return Envelope.model_validate_json(document)
    except ValidationError:
        logger.error("a request cannot be read and is left to its lease: run one version of tokenlane everywhere")
        return None


def read_beat(reply: Reply) -> Beat:
    status, endpoint, lease_ms, registered, *holds = as_list(reply)
    conflict = as_text(endpoint) if as_text(status) == "conflict" else None
    return Beat(conflict, as_int(lease_ms), tuple(cast("Hold", as_text(it)) for it in holds), as_int(registered) == 1)


def read_attachment(reply: Reply) -> Attachment:
    *standing, role, left_ms = as_list(reply)
    return Attachment(_standing(standing), as_text(role), as_int(left_ms))


def read_swept(reply: Reply) -> Swept:
    rank, more, requeued, revived, expired, orphaned = map(as_int, as_list(reply))
    return Swept(rank, more == 1, requeued, revived, expired, orphaned)


def read_checked(reply: Reply) -> Checked:
    now_ms, routers, lanes, absent, revision, pulls, lease_ms, patience_ms, strangers, *standings = as_list(reply)
    now = as_int(now_ms)
    return Checked(
        now_ms=now,
        routers=as_int(routers),
        lanes=as_int(lanes),
        absent=tuple(_lane(lane, now) for lane in as_list(absent)),
        revision=as_int(revision),
        pulls={as_text(lane): _pulls_in(as_bytes(document)) for lane, document in map(as_list, as_list(pulls))},
        standings=tuple(_checked(as_list(standing)) for standing in standings),
        lease_ms=as_int(lease_ms),
        patience_ms=as_int(patience_ms),
        strangers=tuple(map(as_text, as_list(strangers))),
    )


def read_survey(reply: Reply) -> Survey:
    now_ms, revision, heads, lanes, told, watched_ms = as_list(reply)
    turns = {as_text(name): _turn(as_list(fields)) for name, fields in map(as_list, as_list(told))}
    known = (head for head in (_head(head, turns) for head in as_list(heads)) if head is not None)
    now = as_int(now_ms)
    return Survey(
        now,
        as_int(revision),
        tuple(known),
        tuple(_lane(lane, now) for lane in as_list(lanes)),
        as_int(watched_ms),
    )


def _checked(reply: list[Reply]) -> Standing:
    *standing, lapses_ms = reply
    lapses = as_int(lapses_ms)
    return replace(_standing(standing), lapses_ms=lapses if lapses >= 0 else None)


def _standing(reply: Reply) -> Standing:
    state, attempt, worker, end, code, owner = as_list(reply)
    return Standing(
        state=cast("State", as_text(state)),
        attempt=as_int(attempt),
        worker=as_text(worker),
        end=int(as_text(end)) if as_text(end) else None,
        code=as_text(code),
        owner=as_text(owner),
    )


def _turn(fields: list[Reply]) -> Turn:
    values = {as_text(name): int(as_text(value)) for name, value in zip(fields[::2], fields[1::2], strict=True)}
    began = values.get("served", 0)
    lanes = {name.partition(":")[2] for name in values if ":" in name}
    return Turn(began, {it: (values.get(f"served:{it}", began), values.get(f"used:{it}", 0)) for it in lanes})


def _head(reply: Reply, turns: Mapping[str, Turn]) -> Head | None:
    """A queue's head; None if a newer agent has made the queue and this version does not know its kind."""
    name, agent, request_id, attempt, more, served, waited_ms, place = as_list(reply)
    try:
        queue = Queue.parse(as_text(name))
    except ValueError:
        return None
    return Head(
        queue=queue,
        agent=as_text(agent),
        id=as_text(request_id),
        attempt=as_int(attempt),
        more=as_int(more) == 1,
        served=as_int(served),
        waited_ms=as_int(waited_ms),
        place=as_int(place),
        turn=turns.get(queue.turn, Turn()),
    )


def _lane(reply: Reply, now_ms: int) -> LaneView:
    name, provider, endpoint, models, limit, queued, workers, seen_ms, offer, embeds, commands, *rest = as_list(reply)
    left, told, why, beats = rest
    return LaneView(
        name=as_text(name),
        provider=as_text(provider),
        endpoint=as_text(endpoint),
        models=_models_of(as_text(name), as_text(models)),
        limit=as_int(limit),
        queued=as_int(queued),
        workers=as_int(workers),
        seen_ms=as_int(seen_ms),
        offer=_offer(as_bytes(offer)),
        beside={"embed": as_int(embeds), "command": as_int(commands)},
        left_ms=now_ms - as_int(seen_ms) if as_int(left) and not as_int(workers) else None,
        state=lane_state(
            "draining" if as_int(left) else as_text(told), takes_new_work=as_int(workers) > 0, beats=as_int(beats) == 1
        ),
        why=as_text(why),
    )


def _pulls_in(document: bytes) -> dict[str, Progress]:
    """What a lane says that it pulls; of what cannot be read the lane's offer says more, in `status`."""
    try:
        return _progress.validate_json(document)
    except ValidationError:
        return {}


@lru_cache(maxsize=256)
def _models_of(lane: str, document: str) -> tuple[str, ...]:
    models = models_in(document)
    if models is None:
        logger.error("the models of lane %r cannot be read; it is given no work", lane)
    return models or ()


@lru_cache(maxsize=256)
def _offer(document: bytes) -> Offer:
    """A lane's offer; of one that a newer worker has made and this version cannot read, chat is what is left."""
    try:
        return Offer.model_validate_json(document)
    except ValidationError:
        logger.error("a lane's offer cannot be read; it is given chats alone: run one version of tokenlane everywhere")
        return Offer()


def as_list(reply: Reply) -> list[Reply]:
    assert isinstance(reply, list)
    return reply


def as_bytes(reply: Reply) -> bytes:
    assert isinstance(reply, bytes)
    return reply


def as_text(reply: Reply) -> str:
    return as_bytes(reply).decode("utf-8", "replace")  # names may be anybody's


def as_int(reply: Reply) -> int:
    assert isinstance(reply, int)
    return reply
