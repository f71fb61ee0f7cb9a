"""Finds places in a policy's routes that no lane of the pool is. They are worth a warning, since a name may be
misspelt, and no error, since the worker of the lane may yet come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .candidates import served_name
from .lanes.offer import LaneView
from .policy import Candidate, Policy


class Unknown(NamedTuple):
    """A place in a role's route that no lane of the pool is, with the words for it."""

    role: str
    candidate: Candidate
    message: str


def unknown_places(policy: Policy, lanes: Sequence[LaneView]) -> Iterator[Unknown]:
    """The places in routes that none of the lanes is, the roles in their order.

    Args:
        lanes: all that the pool knows, those without a worker too. If there are none at all, every place is unknown.
    """
    for role, rules in policy.roles.items():
        for candidate in rules.route:
            wrong = _wrong(candidate, lanes)
            if wrong:
                yield Unknown(role, candidate, f"the route of role {role!r} names {wrong}")


def _wrong(candidate: Candidate, lanes: Sequence[LaneView]) -> str:
    """What the candidate names that is not there; nothing if a lane is what it names."""
    there = [lane for lane in lanes if candidate.lane in (None, lane.name)]
    known = ", ".join(sorted(lane.name for lane in lanes)) or "none"
    if not there:
        what = "a place" if candidate.lane is None else f"lane {candidate.lane!r}"
        return f"{what} that this pool does not know; its lanes: {known}"
    of = [lane for lane in there if candidate.is_place_of(lane)]
    if not of:
        others = ", ".join(sorted({lane.provider for lane in there}))
        return f"provider {candidate.provider!r}, and no lane has it; there are: {others}"
    if candidate.model is None or any(_may_serve(lane, candidate.model) for lane in of):
        return ""
    served = ", ".join(sorted({model for lane in of for model in lane.models})) or "none"
    return f"model {candidate.model!r}, and no lane of that place serves it; served there: {served}"


def _may_serve(lane: LaneView, model: str) -> bool:
    pulled = lane.offer.pulls and (lane.offer.lacks is None or served_name(model, lane.offer.lacks) is not None)
    return pulled or served_name(model, lane.models) is not None
