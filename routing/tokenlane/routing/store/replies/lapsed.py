"""Parses the attempts whose lease has lapsed in the replies of `sweep` and `check`."""

from __future__ import annotations

from dataclasses import dataclass

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.recovery import Cause, History, LaneStopped, PayloadLost, WorkerLost

from .values import Reply, as_int, as_list, as_text, parse_queue


@dataclass(frozen=True)
class LapsedAttempt:
    """An attempt whose lease has lapsed.

    `queue`: the queue of its request; None if this version cannot parse the queue's name. `cause` and `history`: what
    decide/recovery.py needs to decide what becomes of the request.
    """

    id: str
    attempt: int
    queue: Queue | None
    cause: Cause
    history: History


def parse_lapsed(reply: Reply) -> tuple[LapsedAttempt, ...]:
    """Parse a list of attempts, as `lapsed_attempt` in lua/shared/leases.lua returns them."""
    return tuple(_parse_attempt(as_list(attempt)) for attempt in as_list(reply))


def _parse_attempt(reply: list[Reply]) -> LapsedAttempt:
    request_id, attempt, state, lane, queue_name, starts, crashes, alone, left_ms, has_payload = reply
    queue = parse_queue(queue_name)
    cause: Cause = LaneStopped() if as_text(state) == "dispatched" else WorkerLost(alone=as_int(alone) == 1)
    return LapsedAttempt(
        id=as_text(request_id),
        attempt=as_int(attempt),
        queue=queue,
        cause=cause if as_int(has_payload) else PayloadLost(),
        history=History(
            needs=Needs() if queue is None else queue.needs,
            lane=as_text(lane),
            starts=as_int(starts),
            crashes=as_int(crashes),
            left_ms=as_int(left_ms),
        ),
    )
