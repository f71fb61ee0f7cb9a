"""What `decide/recovery` is told of an attempt of this worker."""

from __future__ import annotations

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.recovery import History
from tokenlane.routing.store.pool import Pool
from tokenlane.worker.lane.lane import Lane

from .attempts import Run

__all__ = ["history_of", "policy_of"]


def history_of(lane: Lane, run: Run, *, delivered: int) -> History:
    """What was tried so far, this attempt included. `delivered`: deltas that the agent may have."""
    return History(
        needs=run.started.envelope.needs,
        lane=lane.name,
        starts=run.started.starts,
        delivered=delivered,
        left_ms=run.left_ms,
    )


async def policy_of(pool: Pool) -> Policy:
    """The pool's policy; the default if the pool does not answer."""
    try:
        return await pool.policies.read()
    except LlmError:
        return Policy()
