"""Explains why requests wait: agents, operators and health checks read the same words."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias, TypeGuard, assert_never, get_args

from tokenlane.routing.contract.attempt_end import NO_HANDOVER

from .candidates import candidates, pullers
from .lanes.offer import LaneView
from .lanes.state import LaneState
from .no_candidate import no_candidate_error, not_pulled, why_closed
from .policy import Policy
from .queue_key import Queue
from .queue_place import QueuePlace, rounded

_PASSING = re.compile(r" \d+ s ago|, starts in about \d+ \w+| in about \d+ \w+")

WaitingState: TypeAlias = Literal["waiting", "delayed", "dispatched"]
"""The states of a request that no worker has started: it waits in a queue, is delayed after a broken attempt, or is
dispatched to a lane."""

START_ROUTER = "start a worker, which also routes, or run `tokenlane router`"


@dataclass(frozen=True)
class WaitCause:
    """Why requests wait.

    Args:
        brief: what they wait for, in a few words.
        explanation: the cause as part of a sentence.
        advice: what to do so that they wait no longer.
        takes_turns: whether they start one after the other as slots become free, so that an estimate makes sense.
        passes: whether the cause passes by itself, as the pause of a lane does.
    """

    brief: str
    explanation: str
    advice: str
    takes_turns: bool = False
    passes: bool = False


@dataclass(frozen=True)
class PoolFacts:
    """What decides why the requests of a pool wait.

    Args:
        pool: the pool's name.
        lanes: all lanes of the pool, including lanes that are away.
        has_router: whether a router is alive.
        paused: the roles that an operator paused.
    """

    pool: str
    policy: Policy
    lanes: Sequence[LaneView]
    has_router: bool
    paused: Collection[str] = ()


@dataclass(frozen=True)
class WaitingRequest:
    """A request that no worker has started, as the pool stores it.

    Attributes:
        queue: the queue in which it waits or last waited; None if this version cannot parse the queue's name.
        lane: the lane to which it is dispatched, or ''.
        due_ms: for a delayed request, the time until it waits in a queue again; otherwise 0.
        ended_by: why its latest attempt ended, as a code; '' if there was none.
        is_over_budget: whether the pool's retry budget delays it.
        place: its place in its queue; None if it does not wait there.
    """

    state: WaitingState
    queue: Queue | None
    lane: str = ""
    due_ms: int = 0
    ended_by: str = ""
    is_over_budget: bool = False
    place: QueuePlace | None = None


@dataclass(frozen=True)
class Wait:
    """Why one request waits, its place in its queue, and an estimate of when it starts. The text of this object has all
    three, as part of a sentence."""

    pool: PoolFacts
    request: WaitingRequest

    @cached_property
    def cause(self) -> WaitCause:
        """What the request waits for."""
        queue, lane = self.request.queue, self.request.lane
        match self.request.state:
            case "waiting":
                ahead = self.request.place.position - 1 if self.request.place else 0
                return _for_another_version() if queue is None else wait_cause(self.pool, queue, ahead)
            case "delayed":
                return _for_the_next_attempt(self.request)
            case "dispatched":
                explanation = f"lane {lane!r} has the request, and a worker is about to start it"
                return WaitCause(f"a worker of {lane}", explanation, "")
            case state:
                assert_never(state)

    @property
    def place(self) -> QueuePlace | None:
        """The request's place in its queue; without an estimate if no slot that becomes free would serve it."""
        place = self.request.place
        return place if place is None or self.cause.takes_turns else replace(place, pace_ms=None)

    def __str__(self) -> str:
        return "; ".join(str(part) for part in (self.cause.explanation, self.place) if part is not None)


def is_waiting(state: str) -> TypeGuard[WaitingState]:
    """Whether a request in this state has been accepted, and no worker has started it."""
    return state in get_args(WaitingState)


def without_passing_times(why: str) -> str:
    """Remove from an explanation what changes because time passes: how long ago, and in how long."""
    return _PASSING.sub("", why)


def _for_another_version() -> WaitCause:
    explanation = "this version of tokenlane cannot read what it asks for"
    return WaitCause("-", explanation, "run the same version of tokenlane on all hosts")


def _for_the_next_attempt(request: WaitingRequest) -> WaitCause:
    soon = f"in about {rounded(request.due_ms)}"
    if request.ended_by == NO_HANDOVER:
        explanation = f"the agent did not say in time how much of the answer it has; a worker asks it again {soon}"
        return WaitCause(f"its agent, which is asked again {soon}", explanation, "")
    ended = f"its last attempt ended with {request.ended_by}" if request.ended_by else "its last attempt failed"
    if request.is_over_budget:
        ended = f"{ended}, as many of the pool do, so the retry budget delays it"
    return WaitCause(f"its next attempt, {soon}", f"{ended}; it is tried again {soon}", "")


def wait_cause(pool: PoolFacts, queue: Queue, ahead: int = 0) -> WaitCause:
    """Explain why a request of a queue waits.

    Args:
        ahead: how many requests of the queue come before it.
    """
    cause, continues = _cause(pool, queue, ahead), queue.needs.continues
    if continues is None:
        return cause
    lanes = "a lane that can continue it" + (" or begin it anew" if queue.needs.restarts else "")
    return replace(
        cause, explanation=f"the answer that model {continues!r} began waits for {lanes}: {cause.explanation}"
    )


def _cause(pool: PoolFacts, queue: Queue, ahead: int) -> WaitCause:
    if queue.role in pool.paused:
        advice = f"resume the role: `tokenlane roles resume {queue.role}`"
        return WaitCause(f"role {queue.role} (paused)", f"an operator paused role {queue.role!r}", advice)
    options = candidates(pool.policy, queue.role, queue.needs, pool.lanes, queue.kind)
    lanes = [lane for lane, _ in options]
    if accepting := [lane for lane in lanes if lane.state.accepts_work]:
        return _for_a_slot(pool, queue, accepting, ahead)
    if lanes:
        return _for_closed_lanes(lanes)
    return _for_a_pull(pool, queue) or _for_a_lane(pool, queue)


def _for_a_slot(pool: PoolFacts, queue: Queue, lanes: Sequence[LaneView], ahead: int) -> WaitCause:
    if not pool.has_router:
        return WaitCause("a router", "no router is running", START_ROUTER)
    free = {lane.name: lane.credit_for(queue.kind) for lane in lanes if not lane.reserved_for}
    idle = [lane for lane in lanes if free.get(lane.name) and not lane.queued.get(queue.kind)]
    loads = ", ".join(_load(lane, queue) for lane in lanes)
    if not any(free.values()):
        why = f"no slot is free on the lanes that may serve it: {loads}"
    elif sum(free.values()) > ahead or idle:
        name = next(name for name, credit in free.items() if credit)
        explanation = f"lane {name!r} has a free slot, which a router is about to fill"
        advice = "check again in 10 s; if this stays, read the log of a router"
        return WaitCause(f"dispatch to {name}", explanation, advice, True)
    else:  # the moment between the end of a request and the start of the next one
        why = f"more requests wait than slots are free on the lanes that may serve it: {loads}"
    return WaitCause(f"a slot on {_names(lanes)}", why, "add lanes, or raise the --capacity of these", True)


def _load(lane: LaneView, queue: Queue) -> str:
    if lane.reserved_for:
        return f"{lane.name!r} (reserved for a request that must run alone)"
    return f"{lane.name!r} ({lane.queued.get(queue.kind, 0)} of {lane.offer.limit_of(queue.kind)})"


def _for_closed_lanes(lanes: Sequence[LaneView]) -> WaitCause:
    brief = ", ".join(f"lane {lane.name} ({lane.state})" for lane in lanes)
    advice = "start the workers of these lanes again"
    if any(lane.state.is_unready for lane in lanes):
        advice = "check the model servers of these lanes"
    if passes := any(lane.state is LaneState.PAUSED for lane in lanes):
        advice = "wait; if this happens often, add lanes, lower the --capacity of these or raise their servers' limits"
    if drained := [lane.name for lane in lanes if lane.is_drained]:
        advice = f"resume a lane that was drained: `tokenlane lanes resume {drained[0]}`"
    return WaitCause(brief, "; ".join(map(_why_closed, lanes)), advice, passes=passes)


def _why_closed(lane: LaneView) -> str:
    if lane.state.is_away:
        ended = "was shut down" if lane.state == "left" else "lost its last worker"
        drained = ", and an operator drained it" if lane.is_drained else ""
        return f"lane {lane.name!r} {ended} {lane.beat_ms / 1000:.0f} s ago{drained}"
    if lane.is_closed:
        return why_closed(lane)
    return f"lane {lane.name!r} is {lane.state}: its workers are shutting down"


def _for_a_pull(pool: PoolFacts, queue: Queue) -> WaitCause | None:
    possible = list(pullers(pool.policy, queue.role, queue.needs, pool.lanes))
    pulls = [(lane, model) for lane, model in possible if model not in lane.offer.unpulled]
    if not possible:
        return None
    lane, model = (pulls or possible)[0]
    if not pulls:
        explanation = not_pulled(lane, model).message.removesuffix(".")
    elif (progress := lane.offer.pulling.get(model)) is not None:
        explanation = f"lane {lane.name!r} pulls {model!r}: {progress}"
    else:
        explanation = f"lane {lane.name!r} has been asked to pull {model!r}"
    return WaitCause(f"a pull of {model} on {lane.name}", explanation, "wait for the pull, or read the worker's log")


def _for_a_lane(pool: PoolFacts, queue: Queue) -> WaitCause:
    error = no_candidate_error(queue, pool.policy, pool.lanes, f"pool {pool.pool!r}")
    role = pool.policy.roles.get(queue.role)
    wanted = " of its route" if role and role.route else ""
    if queue.needs.lane or queue.needs.provider or queue.needs.model:
        asked = {"name": queue.needs.lane, "provider": queue.needs.provider, "model": queue.needs.model}
        wanted = " with " + " and ".join(f"{what} {name}" for what, name in asked.items() if name)
    if queue.needs.continues:
        wanted = " that can continue its answer"
    advice = "compare the lanes that `tokenlane status` shows with the routes that `tokenlane policy show` prints"
    return WaitCause(f"a lane{wanted}", error.message.removesuffix("."), advice)


def _names(lanes: Sequence[LaneView]) -> str:
    return ", ".join(sorted(lane.name for lane in lanes))
