"""What `decide/recovery` is told of an attempt of this worker."""

from __future__ import annotations

from tokenlane.routing.decide.recovery import History
from tokenlane.worker.lane.attempts import Run
from tokenlane.worker.lane.lane import Lane


def history_of(lane: Lane, run: Run, *, delivered: int) -> History:
    """What was tried so far, this attempt included. `delivered`: deltas that the agent may have."""
    return History(
        needs=run.started.needs,
        lane=lane.name,
        starts=run.started.starts,
        delivered=delivered,
        left_ms=run.left_ms,
    )
