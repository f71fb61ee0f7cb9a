"""Ends an attempt: its request is finished, requeued, or left to the worker that runs it now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar, assert_never

from tokenlane.routing.carry_out_recovery import known_policy
from tokenlane.routing.contract.errors import LlmError, PoolKeyMismatch
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.messages import Cancelled, ChannelMessage, Completed, Expired, Failed
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.recovery import (
    AttemptFailed,
    Cause,
    End,
    PoolForgot,
    TryAgain,
    WorkerDraining,
    answer_lost,
    decide,
)
from tokenlane.routing.store.request_life import Ending
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.outlet import Unpublished
from tokenlane.worker.lane.running_attempts import Run, Stopped

from .outcome import Answered, Outcome, RequestOutcome
from .retry_until_answered import retry_until_answered

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAST_DEADLINE_S = 10.0
"""The time after a request's deadline when a worker stops reporting its end to a pool that does not answer."""


async def finish(lane: Lane, run: Run, outcome: Outcome) -> RequestOutcome:
    """Decide what becomes of the request, and record it in the pool, retrying until the pool answers."""
    rest = await run.outlet.close()
    match outcome:
        case Answered(usage, result):
            end = rest.end if result is None else rest.end + 1
            completed = Completed(**_answer_fields(lane, run, rest), end=end, usage=usage, result=result)
            return await _finish(lane, run, "completed", completed, end)
        case LlmError():
            reached = await _handle_failure(lane, outcome, rest)
            return await _recover(lane, run, AttemptFailed(outcome, reached), rest)
        case Stopped("cancelled"):
            return await _finish(lane, run, "cancelled", Cancelled(attempt=run.attempt), rest.first)
        case Stopped("expired"):
            return await _finish(lane, run, "expired", Expired(attempt=run.attempt), rest.first)
        case Stopped("stale"):
            return "left"
        case Stopped("broken_off"):
            return await _end_earlier_answer(lane, run, rest)
        case Stopped():
            return await _recover(lane, run, WorkerDraining(), rest)
        case _:
            assert_never(outcome)


def _answer_fields(lane: Lane, run: Run, rest: Unpublished) -> dict[str, Any]:
    """The fields that `Completed` and `Failed` share."""
    return {
        "attempt": run.attempt,
        "worker": lane.worker,
        "lane": lane.name,
        "model": run.outlet.model,
        "first": rest.first,
        "deltas": rest.deltas,
    }


async def _handle_failure(lane: Lane, error: LlmError, rest: Unpublished) -> bool:
    """Have the lane check its server, or drain if it lacks a key. Return whether the attempt reached the server."""
    if isinstance(error, PoolKeyMismatch) and error.retryable:
        logger.error("lane %r takes no new work: %s", lane.name, error)
        lane.heartbeat.report_failure(error.code)
        lane.availability.draining = True
        await lane.heartbeat.beat()
        return False
    if rest.first > 0:
        lane.readiness.check_soon()
        return True
    return not await lane.readiness.record_failure(error)


async def _recover(lane: Lane, run: Run, cause: Cause, rest: Unpublished) -> RequestOutcome:
    policy = await _retry_until_recorded(lane, run, lambda: known_policy(lane.pool))
    if policy is None:
        return "left"
    decision = decide(cause, run.history(lane.name, rest.first), policy)
    match decision:
        case End(error):
            failed = Failed(**_answer_fields(lane, run, rest), end=rest.end, error=error.report())
            return await _finish(lane, run, "failed", failed, rest.end, error.code)
        case TryAgain() as again:
            if isinstance(cause, AttemptFailed) and KINDS[run.started.envelope.kind].is_long:
                why = cause.error.message.partition(":")[0]
                await run.outlet.report_progress(Progress(step=f"lane {lane.name}: {why}; trying again"))
            return await _requeue(lane, run, again, rest)
        case _:
            assert_never(decision)


async def _end_earlier_answer(lane: Lane, run: Run, rest: Unpublished) -> RequestOutcome:
    """End a request whose earlier attempt broke off. The error names the lane of that attempt, as the agent knows it:
    this lane has done nothing for the request."""
    handover = run.handover.result()
    error = answer_lost("worker").at(lane=handover.lane or None, model=handover.model or None)
    answer = {**_answer_fields(lane, run, rest), "lane": handover.lane, "model": handover.model}
    failed = Failed(**answer, end=rest.end, error=error.report())
    return await _finish(lane, run, "failed", failed, rest.end, error.code, failed_on=handover.lane)


async def _finish(
    lane: Lane,
    run: Run,
    ending: Ending,
    message: ChannelMessage,
    end: int,
    code: str = "",
    failed_on: str | None = None,
) -> RequestOutcome:
    """Record the ending in the pool. `failed_on`: the lane that failed, if it is not this lane; '' if it is unknown."""
    wire = message.to_wire()
    done = await _retry_until_recorded(
        lane,
        run,
        lambda: lane.pool.requests.finish(run.id, run.attempt, lane.worker, ending, end, code, wire, lane=failed_on),
    )
    if not done:
        return "left"
    run.outlet.end(wire)
    return ending


async def _requeue(lane: Lane, run: Run, again: TryAgain, rest: Unpublished) -> RequestOutcome:
    queue = replace(Queue.of(run.started.envelope), needs=again.needs)
    state = await _retry_until_recorded(
        lane,
        run,
        lambda: lane.pool.requests.requeue(
            run.id, run.attempt, lane.worker, again.due_ms, queue=queue, counts=again.counts, alone=again.alone
        ),
    )
    if state == "lost":
        return await _recover(lane, run, PoolForgot(), rest)
    run.outlet.discard()
    match state:
        case "waiting" | "delayed":
            return "requeued"
        case "cancelled" | "expired":
            return state
        case _:
            return "left"


async def _retry_until_recorded(lane: Lane, run: Run, call: Callable[[], Awaitable[T]]) -> T | None:
    """Repeat the call until the pool answers; None once the attempt has to be left to its lease."""
    clock, was_outdated = asyncio.get_running_loop().time, False

    def should_give_up() -> bool:
        # An earlier call whose reply was lost may already have ended the attempt; the next call shows that.
        nonlocal was_outdated
        useless, was_outdated = was_outdated, run.reason == "stale"
        return useless or clock() > run.deadline + _PAST_DEADLINE_S

    answer = await retry_until_answered(lane, f"the end of attempt {run.attempt} of {run.id}", call, should_give_up)
    if answer is None:
        logger.error("attempt %d of %s is left to its lease", run.attempt, run.id)
    return answer
