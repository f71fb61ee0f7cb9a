"""Gates: what must hold before a lane starts a request, and why a request waits.

A plan passes them on what it has seen of a lane; `dispatch` passes them again on the lane itself, by lua/gates.lua,
which has the same gates in the same order and with the same reasons. Another condition is another function in `GATES`,
and one there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.decide.order import Head

from .offer import LaneView

Reason = Literal["closed", "kept", "full", "occupied"]


@dataclass(frozen=True)
class Wait:
    """The request is not started there now. `until_ms`: when it may be, by the server's clock; None: nobody knows."""

    why: Reason
    until_ms: int | None = None


Gate: TypeAlias = Callable[[Head, LaneView, int], Wait | None]
"""Of a request, a lane and the server's time in ms: why the lane does not start it; None if it may."""


def takes_work(head: Head, lane: LaneView, now_ms: int) -> Wait | None:
    """Some worker of the lane takes new work, and the lane this kind of it."""
    return None if lane.state.takes_work and lane.limit_of(head.queue.kind) > 0 else Wait("closed")


def is_not_kept(head: Head, lane: LaneView, now_ms: int) -> Wait | None:
    """No other request runs there alone, or is to."""
    return Wait("kept") if lane.kept_for not in ("", head.id) else None


def has_credit(head: Head, lane: LaneView, now_ms: int) -> Wait | None:
    """The lane has credit for this kind."""
    return None if lane.credit_for(head.queue.kind) > 0 else Wait("full")


def is_empty_for_a_suspect(head: Head, lane: LaneView, now_ms: int) -> Wait | None:
    """A request under which workers died takes an empty lane, and waits for no long work there."""
    if not head.suspect:
        return None
    waited_for = (kind for kind, work in KINDS.items() if kind == head.queue.kind or not work.is_long)
    return Wait("occupied") if any(lane.queued.get(kind, 0) for kind in waited_for) else None


GATES: tuple[Gate, ...] = (takes_work, is_not_kept, has_credit, is_empty_for_a_suspect)


def first_wait(head: Head, lane: LaneView, now_ms: int) -> Wait | None:
    """Why the lane does not start the request now; None if it may."""
    return next((wait for gate in GATES if (wait := gate(head, lane, now_ms)) is not None), None)
