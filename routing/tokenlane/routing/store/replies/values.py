"""Replies of Redis as types."""

from __future__ import annotations

from tokenlane.routing.decide.queues import Queue

Reply = list["Reply"] | bytes | int | None


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


def read_queue(reply: Reply) -> Queue | None:
    """The queue of that name; None if a newer version has made it and this one cannot read it."""
    try:
        return Queue.parse(as_text(reply))
    except ValueError:
        return None
