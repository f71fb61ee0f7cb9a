"""Parses the reply of lua/survey.lua into a `Survey`."""

from __future__ import annotations

from collections.abc import Mapping

from tokenlane.routing.decide.plan import Survey
from tokenlane.routing.decide.role_fairness import Head, RoleTurn

from .replies.lane import parse_lanes
from .replies.values import Reply, as_int, as_list, as_text, parse_queue


def parse_survey(reply: Reply, pool: str) -> Survey:
    """Parse a survey of this pool. Queues whose name this version cannot parse are left out."""
    now_ms, revision, heads, lanes, turns, watched_ms = as_list(reply)
    turn_of = {as_text(name): _turn(as_list(fields)) for name, fields in map(as_list, as_list(turns))}
    known = tuple(head for head in (_head(head, turn_of) for head in as_list(heads)) if head is not None)
    return Survey(as_int(now_ms), as_int(revision), known, parse_lanes(lanes), as_int(watched_ms), f"pool {pool!r}")


def _turn(fields: list[Reply]) -> RoleTurn:
    values = {as_text(name): int(as_text(value)) for name, value in zip(fields[::2], fields[1::2], strict=True)}
    began = values.get("served", 0)
    lanes = {name.partition(":")[2] for name in values if ":" in name}
    return RoleTurn(began, {it: (values.get(f"served:{it}", began), values.get(f"used:{it}", 0)) for it in lanes})


def _head(reply: Reply, turn_of: Mapping[str, RoleTurn]) -> Head | None:
    name, agent, request_id, attempt, more, served, waited_ms, place, suspect = as_list(reply)
    queue = parse_queue(name)
    if queue is None:
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
        turn=turn_of.get(queue.turn, RoleTurn()),
        suspect=as_int(suspect) == 1,
    )
