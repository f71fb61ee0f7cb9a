"""Narrows the untyped replies of Redis to the types that the scripts' headers state."""

from __future__ import annotations

from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.decide.wait_cause import WaitingRequest, is_waiting

Reply = list["Reply"] | bytes | int | None


def as_list(reply: Reply) -> list[Reply]:
    assert isinstance(reply, list)
    return reply


def as_bytes(reply: Reply) -> bytes:
    assert isinstance(reply, bytes)
    return reply


def as_text(reply: Reply) -> str:
    return as_bytes(reply).decode("utf-8", "replace")  # any Redis client may have written a name


def as_int(reply: Reply) -> int:
    assert isinstance(reply, int)
    return reply


def parse_queue(reply: Reply) -> Queue | None:
    """Parse the name of a queue; None if this version cannot parse it."""
    try:
        return Queue.parse(as_text(reply))
    except ValueError:
        return None


def parse_place(reply: Reply) -> QueuePlace | None:
    """Parse a place, as `place_of` in lua/shared/places.lua returns it; None if the request does not wait."""
    position, waiting, pace_ms = map(as_int, as_list(reply))
    return QueuePlace(position, waiting, pace_ms or None) if position else None


def parse_waiting(state: str, reply: Reply) -> WaitingRequest | None:
    """Parse what explains why a request waits, as `wait_of` in lua/shared/places.lua returns it; None if it does not
    wait."""
    parts = as_list(reply)
    if not parts or not is_waiting(state):
        return None
    queue, lane, due_ms, ended_by, over_budget, place = parts
    return WaitingRequest(
        state=state,
        queue=parse_queue(queue),
        lane=as_text(lane),
        due_ms=as_int(due_ms),
        ended_by=as_text(ended_by),
        is_over_budget=as_int(over_budget) == 1,
        place=parse_place(place),
    )
