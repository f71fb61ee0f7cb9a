"""Asks the agent, before a request is run again, whether it already has part of the answer."""

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
    """Return if the attempt may answer the request from the beginning. On a request's first start, it always may.

    On a later start the agent is asked, for at most the policy's `orphan_ms`. The attempt holds its slot meanwhile.

    Raises:
        Stopped: no agent waits for the answer any more, a newer attempt has begun to answer, or the agent has part of
            the answer from an earlier attempt.
    """
    if run.claim.starts == 1:
        return
    policy = await _read_policy(lane)
    handover = await _ask_agent(lane, run, policy.orphan_ms / 1000)
    if handover is None or handover.state == "done":
        raise Stopped("cancelled")
    if handover.state == "stale":
        raise Stopped("stale")
    if handover.position == 0:
        return
    run.outlet.start_at(handover.position)
    raise Stopped("broken_off")


async def _read_policy(lane: Lane) -> Policy:
    while True:
        with suppress(PoolUnavailable):
            return await known_policy(lane.pool)
        await asyncio.sleep(lane.timings.retry_s)


async def _ask_agent(lane: Lane, run: Run, timeout_s: float) -> Handover | None:
    """Return the agent's reply, or None if no agent replies in time. Time without Redis does not count."""
    clock = asyncio.get_running_loop().time
    until = clock() + timeout_s
    while clock() < until:
        try:
            await run.outlet.send(Resume(attempt=run.attempt, worker=lane.worker))
        except LlmError:
            until = clock() + timeout_s
        await asyncio.wait({run.handover}, timeout=lane.timings.retry_s)
        if run.handover.done():
            return run.handover.result()
    return None
