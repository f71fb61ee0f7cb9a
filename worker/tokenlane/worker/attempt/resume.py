"""Asks the agent which part of the answer it has before a request is run again, and prepares to continue that part."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import assert_never

from tokenlane.routing.carry_out_recovery import known_policy
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.attempt_end import NO_HANDOVER
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.messages import Handover, Obstacle, Resume
from tokenlane.routing.contract.requests import ChatRequest, Request
from tokenlane.routing.decide.policy import RolePolicy
from tokenlane.routing.decide.recovery import (
    Continue,
    End,
    Restart,
    TryAgain,
    decide_resumption,
    decide_without_handover,
)
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run, Stopped

from .outcome import NotResumed
from .retry_until_answered import retry_until_answered


async def resume(lane: Lane, run: Run, request: Request) -> None:
    """Set `run.partial` to the part of the answer that the agent has, if this attempt continues it.

    On a request's first start the agent has nothing. On a later start the agent is asked. The attempt holds its slot
    meanwhile, so it waits at most `Timings.handover_s` for the reply, and as long for each further piece of it.

    Raises:
        Stopped: no agent waits for the answer any more, or a newer attempt has begun to answer.
        NotResumed: the agent did not reply in time, or this lane must not continue or restart the answer.
    """
    if isinstance(request, ChatRequest):
        run.restarts, run.has_schema = request.on_interrupt == "restart", _must_match_schema(request)
    if run.claim.starts == 1:
        return
    handover = await _ask_agent(lane, run)
    if handover is None:
        raise NotResumed(NO_HANDOVER, decide_without_handover(run.history(lane.name, 0)))
    match handover.state:
        case "done":
            raise Stopped("cancelled")
        case "stale":
            raise Stopped("stale")
    if handover.position == 0 or not isinstance(request, ChatRequest):
        return
    if handover.finish_reason is not None:
        _continue(run, handover)
    elif request.max_tokens is not None and handover.tokens >= request.max_tokens:
        _continue(run, handover.model_copy(update={"finish_reason": "length"}))
        run.outlet.put(TokenDelta(finish_reason="length"))
    else:
        can_prefill = lane.availability.announcement.offer.can(run.claim.model, "prefill")
        await resume_or_leave(lane, run, handover, can_prefill=can_prefill)


async def resume_or_leave(lane: Lane, run: Run, handover: Handover, *, can_prefill: bool) -> None:
    """Prepare the attempt to continue the agent's part of the answer, or to begin the answer anew.

    Args:
        can_prefill: whether the model server can continue a partial answer with the attempt's model.

    Raises:
        NotResumed: the attempt must not do either.
    """
    # An agent of an older version sends neither text nor tokens. Deltas with log probabilities may have no text.
    lacks_text = not handover.text and "tokens" not in handover.model_fields_set
    obstacle: Obstacle = handover.obstacle or ("part" if lacks_text else "schema" if run.has_schema else "")
    history = replace(run.history(handover.lane, handover.position), model=handover.model, obstacle=obstacle)
    policy = await retry_until_answered(lane, "read the policy", lambda: known_policy(lane.pool))
    role = policy.roles.get(run.claim.envelope.role, RolePolicy())
    match decide_resumption(history, role, run.claim.model, can_prefill=can_prefill):
        case Continue():
            _continue(run, handover)
        case Restart():
            run.partial = None
            run.outlet.restart()
        case (TryAgain() | End()) as decision:
            _continue(run, handover)  # so that the end of the attempt counts the part as delivered
            raise NotResumed("cannot_continue", decision)
        case decision:
            assert_never(decision)


def _continue(run: Run, handover: Handover) -> None:
    run.partial = handover
    run.outlet.continue_after(handover)


def _must_match_schema(request: ChatRequest) -> bool:
    return request.response_format is not None and request.response_format.get("type") != "text"


async def _ask_agent(lane: Lane, run: Run) -> Handover | None:
    """Return the agent's reply, or None if no part of it arrives in time. Time without Redis does not count."""
    clock, timeout_s = asyncio.get_running_loop().time, lane.timings.handover_s
    until, arrived = clock() + timeout_s, 0
    while clock() < until:
        if not run.is_handover_arriving:
            try:
                await run.outlet.send(Resume(attempt=run.attempt, worker=lane.worker))
            except LlmError:
                until = clock() + timeout_s
        await asyncio.wait({run.handover}, timeout=min(lane.timings.retry_s, until - clock()))
        if run.handover.done():
            return run.handover.result()
        if run.arrived_pieces > arrived:  # a long text may take longer to arrive than an agent to reply
            until = clock() + timeout_s
        arrived = run.arrived_pieces
    return None
