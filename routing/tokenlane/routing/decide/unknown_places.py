"""Finds route entries in a policy that match no lane of the pool.

Such an entry causes a warning, since it may be misspelt. It is not an error, since the lane's worker may start later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .candidates import served_name
from .lanes.offer import LaneView
from .policy import Candidate, Policy


class UnknownPlace(NamedTuple):
    """An entry in a role's route that matches no lane, and the warning about it."""

    role: str
    candidate: Candidate
    message: str


def unknown_places(policy: Policy, lanes: Sequence[LaneView]) -> Iterator[UnknownPlace]:
    """The route entries that match none of these lanes, in the order of the roles.

    Args:
        lanes: all lanes that the pool knows, including lanes without a worker.
    """
    for role, rules in policy.roles.items():
        for candidate in rules.route:
            mismatch = _mismatch(candidate, lanes)
            if mismatch:
                yield UnknownPlace(role, candidate, f"the route of role {role!r} names {mismatch}")


def _mismatch(candidate: Candidate, lanes: Sequence[LaneView]) -> str:
    """The part of the candidate that no lane of the pool matches, as the end of the warning; "" if a lane matches."""
    named = [lane for lane in lanes if candidate.lane in (None, lane.name)]
    if not named and candidate.lane is not None:
        known = ", ".join(sorted(lane.name for lane in lanes)) or "none"
        return f"lane {candidate.lane!r}, which the pool does not know; known lanes: {known}"
    matching = [lane for lane in named if candidate.is_place_of(lane)]
    if not matching and candidate.provider is not None:
        known = ", ".join(sorted({lane.provider for lane in named})) or "none"
        return f"provider {candidate.provider!r}, which no matching lane has; known providers: {known}"
    if candidate.model is None or any(_may_serve(lane, candidate.model) for lane in matching):
        return ""
    served = ", ".join(sorted({model for lane in matching for model in lane.models})) or "none"
    return f"model {candidate.model!r}, which no matching lane serves; available models: {served}"


def _may_serve(lane: LaneView, model: str) -> bool:
    pulled = lane.offer.pulls and (lane.offer.lacks is None or served_name(model, lane.offer.lacks) is not None)
    return pulled or served_name(model, lane.models) is not None
