"""Asks the agent, before a request is run again, whether it has a part of the answer already."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tokenlane.routing.carry_out_recovery import known_policy
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.routing.contract.messages import Handover, Resume
from tokenlane.routing.decide.policy import Policy
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run, Stopped


async def resume(lane: Lane, run: Run) -> None:
    """Run on only if the agent has nothing of the answer; on a request's first start it has nothing.

    The lane's slot is held while the agent is asked, for up to the policy's `orphan_ms`.

    Raises:
        Stopped: no agent waits for the answer any more, a newer attempt gives it, or an earlier attempt broke off after
            it had given a part.
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
    raise Stopped("broken_off")


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
