"""Explains from a snapshot why the requests of a queue wait, with the reasons that agents get from routers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenlane.routing.decide.candidates import candidates, pullers
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.no_candidate import no_candidate_error, not_pulled, why_closed
from tokenlane.routing.decide.queue_key import Queue

from .snapshot import QueueStatus, RoleStatus, Snapshot

START_ROUTER = "start a worker, which also routes, or run `tokenlane router`"


@dataclass(frozen=True)
class WaitCause:
    """Why requests wait.

    Args:
        brief: what they wait for, in a few words.
        explanation: the cause as part of a sentence.
        advice: what to do so that they wait no longer.
        takes_turns: whether they start one after the other as slots become free, so that an estimate makes sense.
    """

    brief: str
    explanation: str
    advice: str
    takes_turns: bool = False


def wait_cause(snapshot: Snapshot, queue: QueueStatus) -> WaitCause:
    """Explain why the requests of a queue wait."""
    cause, continues = _cause(snapshot, queue), queue.needs.continues
    if continues is None:
        return cause
    lanes = "a lane that can continue it" + (" or begin it anew" if queue.needs.restarts else "")
    return replace(
        cause, explanation=f"an answer of model {continues!r} broke off and waits for {lanes}: {cause.explanation}"
    )


def _cause(snapshot: Snapshot, queue: QueueStatus) -> WaitCause:
    if queue.role in snapshot.paused:
        advice = f"resume the role: `tokenlane roles resume {queue.role}`"
        return WaitCause("its role (paused)", f"an operator paused role {queue.role!r}", advice)
    options = candidates(snapshot.policy, queue.role, queue.needs, snapshot.views, queue.kind)
    lanes = [lane for lane, _ in options]
    if accepting := [lane for lane in lanes if lane.state.accepts_work]:
        return _for_a_slot(snapshot, queue, accepting)
    if lanes:
        return _for_closed_lanes(lanes)
    return _for_a_pull(snapshot, queue) or _for_a_lane(snapshot, queue)


def oldest_queue(snapshot: Snapshot, role: RoleStatus) -> QueueStatus | None:
    """The queue in which the role's oldest request of this priority waits; None if none waits."""
    queues = (queue for queue in snapshot.queues if (queue.role, queue.priority) == (role.role, role.priority))
    return max(queues, key=lambda queue: queue.oldest_ms, default=None)


def _for_a_slot(snapshot: Snapshot, queue: QueueStatus, lanes: Sequence[LaneView]) -> WaitCause:
    if not snapshot.routers:
        return WaitCause("a router", "no router is running", START_ROUTER)
    if free := [lane for lane in lanes if lane.credit_for(queue.kind) and not lane.reserved_for]:
        explanation = f"lane {free[0].name!r} has a free slot, which a router is about to fill"
        return WaitCause("its turn", explanation, "check again in 10 s; if this stays, read the log of a router", True)
    loads = ", ".join(_load(lane, queue) for lane in lanes)
    advice = "add lanes, or raise the --capacity of these"
    return WaitCause(
        f"a slot on {_names(lanes)}", f"no slot is free on the lanes that may serve them: {loads}", advice, True
    )


def _load(lane: LaneView, queue: QueueStatus) -> str:
    if lane.reserved_for:
        return f"{lane.name!r} (reserved for a request that must run alone)"
    return f"{lane.name!r} ({lane.queued.get(queue.kind, 0)} of {lane.offer.limit_of(queue.kind)})"


def _for_closed_lanes(lanes: Sequence[LaneView]) -> WaitCause:
    brief = ", ".join(f"lane {lane.name} ({lane.state})" for lane in lanes)
    advice = "start the workers of these lanes again"
    if any(lane.state.is_unready for lane in lanes):
        advice = "check the model servers of these lanes"
    if drained := [lane.name for lane in lanes if lane.is_drained]:
        advice = f"resume a lane that was drained: `tokenlane lanes resume {drained[0]}`"
    return WaitCause(brief, "; ".join(map(_why_closed, lanes)), advice)


def _why_closed(lane: LaneView) -> str:
    if lane.state.is_away:
        ended = "was shut down" if lane.state == "left" else "lost its last worker"
        drained = ", and an operator drained it" if lane.is_drained else ""
        return f"lane {lane.name!r} {ended} {lane.beat_ms / 1000:.0f} s ago{drained}"
    if lane.is_closed:
        return why_closed(lane)
    return f"lane {lane.name!r} is {lane.state}: its workers are shutting down"


def _for_a_pull(snapshot: Snapshot, queue: QueueStatus) -> WaitCause | None:
    possible = list(pullers(snapshot.policy, queue.role, queue.needs, snapshot.views))
    pulls = [(lane, model) for lane, model in possible if model not in lane.offer.unpulled]
    if not possible:
        return None
    lane, model = (pulls or possible)[0]
    if not pulls:
        explanation = not_pulled(lane, model).message
    elif (progress := lane.offer.pulling.get(model)) is not None:
        explanation = f"lane {lane.name!r} pulls {model!r}: {progress}"
    else:
        explanation = f"lane {lane.name!r} has been asked to pull {model!r}"
    return WaitCause(f"a pull of {model} on {lane.name}", explanation, "wait for the pull, or read the worker's log")


def _for_a_lane(snapshot: Snapshot, queue: QueueStatus) -> WaitCause:
    key = Queue(role=queue.role, kind=queue.kind, priority=queue.priority, needs=queue.needs)
    error = no_candidate_error(key, snapshot.policy, snapshot.views, f"pool {snapshot.pool!r}")
    role = snapshot.policy.roles.get(queue.role)
    wanted = " of its route" if role and role.route else ""
    if queue.needs.lane or queue.needs.provider or queue.needs.model:
        asked = {"name": queue.needs.lane, "provider": queue.needs.provider, "model": queue.needs.model}
        wanted = " with " + " and ".join(f"{what} {name}" for what, name in asked.items() if name)
    if queue.needs.continues:
        wanted = " that can continue its answer"
    advice = "compare the lanes that `tokenlane status` shows with the routes that `tokenlane policy show` prints"
    return WaitCause(f"a lane{wanted}", error.message, advice)


def _names(lanes: Sequence[LaneView]) -> str:
    return ", ".join(sorted(lane.name for lane in lanes))
