"""Asks the agent, before a request is run again, how much of the answer it has, and continues from there."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tokenlane.routing.carry_out_recovery import known_policy
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.routing.contract.messages import Handover, Resume
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.recovery import End, WorkerLost, decide
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run, Stopped


async def resume(lane: Lane, run: Run) -> None:
    """Agree with the agent where the answer continues; a request's first start has nothing to agree on.

    The lane's slot is held while the agent is asked, for up to the policy's `orphan_ms`.

    Raises:
        Stopped: no agent waits for the answer any more, or a newer attempt gives it.
        LlmError: the agent has a part of the answer, and the answer cannot be continued.
    """
    if run.started.starts == 1:
        return
    policy = await _policy(lane)
    handover = await _ask_agent(lane, run, policy.orphan_ms / 1000)
    if handover is None or handover.state == "done":
        raise Stopped("cancelled")
    if handover.state == "stale":
        raise Stopped("stale")
    if handover.position == 0:
        return
    run.outlet.start_at(handover.position)
    decision = decide(WorkerLost(), run.history(lane.name, handover.position), policy)
    if isinstance(decision, End):
        raise decision.error


async def _policy(lane: Lane) -> Policy:
    while True:
        with suppress(PoolUnavailable):
            return await known_policy(lane.pool)
        await asyncio.sleep(lane.timings.retry_s)


async def _ask_agent(lane: Lane, run: Run, patience_s: float) -> Handover | None:
    """The agent's reply; None if no agent replies in time. Time without Redis does not count."""
    clock = asyncio.get_running_loop().time
    until = clock() + patience_s
    while clock() < until:
        try:
            await run.outlet.send(Resume(attempt=run.attempt, worker=lane.worker))
        except LlmError:
            until = clock() + patience_s
        await asyncio.wait({run.handover}, timeout=lane.timings.retry_s)
        if run.handover.done():
            return run.handover.result()
    return None
