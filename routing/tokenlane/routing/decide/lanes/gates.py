"""Gates: the conditions that a request must pass before a lane may start it.

The plan checks the gates against a survey of the lane, and the `dispatch` script checks them again against the lane's
current state: lua/shared/gates.lua has the same gates in the same order with the same reasons. Change both together.
"""

from __future__ import annotations

from typing import Literal

from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.decide.role_fairness import Head

from .offer import LaneView

Reason = Literal["drained", "closed", "reserved", "full", "occupied"]
"""Why a lane does not start a request now. `drained`: an operator drained the lane. `closed`: it accepts no work of
this kind. `reserved`: it is kept free for a suspect. `full`: it has no free slot. `occupied`: the request is a suspect,
and the lane is not empty yet."""


def is_not_drained(_: Head, lane: LaneView) -> Reason | None:
    """No operator has drained the lane."""
    return "drained" if lane.is_drained else None


def accepts_work(head: Head, lane: LaneView) -> Reason | None:
    """The lane accepts work, and serves this kind."""
    return None if lane.state.accepts_work and lane.offer.limit_of(head.queue.kind) > 0 else "closed"


def is_not_reserved(head: Head, lane: LaneView) -> Reason | None:
    """No other request runs alone on the lane, or is next to run alone there."""
    return "reserved" if lane.reserved_for not in ("", head.id) else None


def has_credit(head: Head, lane: LaneView) -> Reason | None:
    """The lane has credit for this kind."""
    return None if lane.credit_for(head.queue.kind) > 0 else "full"


def is_empty_for_a_suspect(head: Head, lane: LaneView) -> Reason | None:
    """A suspect starts only on an empty lane, but does not wait for the end of long work of another kind."""
    if not head.suspect:
        return None
    waited_for = (kind for kind, work in KINDS.items() if kind == head.queue.kind or not work.is_long)
    return "occupied" if any(lane.queued.get(kind, 0) for kind in waited_for) else None


GATES = (is_not_drained, accepts_work, is_not_reserved, has_credit, is_empty_for_a_suspect)


def why_not(head: Head, lane: LaneView) -> Reason | None:
    """The reason of the first gate that the request does not pass; None if the lane may start the request."""
    return next((reason for gate in GATES if (reason := gate(head, lane)) is not None), None)
