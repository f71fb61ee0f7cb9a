"""The survey: the heads of all queues and all lanes, as routers decide on them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError

from tokenlane.routing.decide.lanes.offer import LaneView, Offer, lane_state, models_in
from tokenlane.routing.decide.order import Head, Queue, Turn

from .replies import Reply, as_bytes, as_int, as_list, as_text

__all__ = ["Survey", "read_lane", "read_survey"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Survey:
    """What routers decide on, all of one moment. `watched_ms`: for how long the pool has been looked at without a gap:
    lanes that live may not have been heard of since a server came back or was wiped."""

    now_ms: int
    revision: int
    heads: tuple[Head, ...]
    lanes: tuple[LaneView, ...]
    watched_ms: float = math.inf


def read_survey(reply: Reply) -> Survey:
    """The survey in the reply of its script."""
    now_ms, revision, heads, lanes, told, watched_ms = as_list(reply)
    turns = {as_text(name): _turn(as_list(fields)) for name, fields in map(as_list, as_list(told))}
    known = (head for head in (_head(head, turns) for head in as_list(heads)) if head is not None)
    now = as_int(now_ms)
    return Survey(
        now,
        as_int(revision),
        tuple(known),
        tuple(read_lane(lane, now) for lane in as_list(lanes)),
        as_int(watched_ms),
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


def read_lane(reply: Reply, now_ms: int) -> LaneView:
    """A lane, as `survey` and `check` say it."""
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
