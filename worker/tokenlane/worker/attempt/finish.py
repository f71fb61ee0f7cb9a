"""Ends an attempt: finishes its request, requeues it, or leaves it to the worker that runs it now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar, assert_never

from tokenlane.routing.carry_out_recovery import known_policy
from tokenlane.routing.contract.errors import LlmError, ModelNotFound, PoolKeyMismatch
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.messages import Cancelled, ChannelMessage, Completed, Expired, Failed
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.recovery import (
    AttemptFailed,
    Cause,
    End,
    Forget,
    PayloadLost,
    TryAgain,
    WorkerDraining,
    decide,
    decide_without_budget,
)
from tokenlane.routing.store.request_life import Ending, RequestOutcome
from tokenlane.routing.telemetry.attempt import current_span
from tokenlane.worker.hooks.prompt_plugins import PluginMissing
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.outlet import Unpublished
from tokenlane.worker.lane.running_attempts import Run, Stopped

from .outcome import Answered, AttemptOutcome, NotResumed, code_of
from .retry_until_answered import retry_until_answered

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAST_DEADLINE_S = 10.0
"""How long after a request's deadline a worker keeps trying to report its end to a pool that does not answer."""


async def finish(lane: Lane, run: Run, outcome: AttemptOutcome) -> RequestOutcome:
    """Decide what becomes of the request, record that in the pool, and return it. Retries until the pool answers."""
    unpublished = await run.outlet.close()
    match outcome:
        case Answered(usage, result):
            end = unpublished.end if result is None else unpublished.end + 1
            completed = Completed(**_answer_fields(lane, run, unpublished), end=end, usage=usage, result=result)
            return await _finish(lane, run, "completed", completed, end)
        case LlmError():
            reached = await _handle_failure(lane, run, outcome, unpublished)
            delivered = unpublished.first > run.outlet.start
            was_routed = KINDS[run.claim.envelope.kind].follows_routes
            is_lacking = was_routed and isinstance(outcome, ModelNotFound | PluginMissing)
            failed = AttemptFailed(outcome, reached, delivered, is_lacking, lane_pauses=was_routed)
            return await _recover(lane, run, failed, unpublished, code_of(outcome))
        case Stopped("cancelled"):
            return await _finish(lane, run, "cancelled", Cancelled(attempt=run.attempt), unpublished.first)
        case Stopped("expired"):
            return await _finish(lane, run, "expired", Expired(attempt=run.attempt), unpublished.first)
        case Stopped("stale"):
            return "left"
        case NotResumed():
            return await _leave(lane, run, outcome, unpublished)
        case Stopped():
            return await _recover(lane, run, WorkerDraining(), unpublished, code_of(outcome))
        case _:
            assert_never(outcome)


def _answer_fields(lane: Lane, run: Run, unpublished: Unpublished) -> dict[str, Any]:
    """The fields that `Completed` and `Failed` share."""
    return {
        "attempt": run.attempt,
        "worker": lane.worker,
        "lane": lane.name,
        "model": run.outlet.model,
        "first": unpublished.first,
        "deltas": unpublished.deltas,
        **({"begun_by": run.outlet.begun_by} if run.outlet.begun_by else {}),
    }


async def _handle_failure(lane: Lane, run: Run, error: LlmError, unpublished: Unpublished) -> bool:
    """Have the model server checked, or drain the lane if its worker lacks a pool key.

    Return whether the request may have reached the model.
    """
    if isinstance(error, PoolKeyMismatch) and error.retryable:
        logger.error("lane %r accepts no new work: %s", lane.name, error)
        lane.heartbeat.report_failure(error.code)
        lane.availability.draining = True
        await lane.heartbeat.beat()
        return False
    if unpublished.first > run.outlet.start:
        lane.readiness.check_soon()
        return True
    return await lane.readiness.record_failure(error)


async def _recover(lane: Lane, run: Run, cause: Cause, unpublished: Unpublished, why: str) -> RequestOutcome:
    """End the request with an error, requeue it or forget it, as the recovery policy decides.

    Args:
        why: why the attempt ended, as a code.
    """
    policy = await _retry_until_recorded(lane, run, lambda: known_policy(lane.pool))
    if policy is None:
        return "left"
    decision = decide(cause, run.history(lane.name, unpublished.first), policy)
    match decision:
        case End(error):
            return await _fail(lane, run, error, unpublished)
        case TryAgain() as retry:
            if isinstance(cause, AttemptFailed) and KINDS[run.claim.envelope.kind].is_long:
                reason = cause.error.message.partition(":")[0].rstrip(".")
                await run.outlet.report_progress(Progress(step=f"lane {lane.name}: {reason}; trying again"))
            failure = cause.error if isinstance(cause, AttemptFailed) else None
            return await _requeue(lane, run, retry, unpublished, why, failure)
        case Forget():
            return await _forget(lane, run)
        case _:
            assert_never(decision)


async def _leave(lane: Lane, run: Run, outcome: NotResumed, unpublished: Unpublished) -> RequestOutcome:
    """Requeue or end a request whose earlier attempt broke off and that this attempt does not continue.

    If the request ends, the message names the lane and the model of the earlier attempt: this lane has done nothing for
    the request.
    """
    decision = outcome.decision
    match decision:
        case End(error):
            handover = run.handover.result()
            answer = {**_answer_fields(lane, run, unpublished), "lane": handover.lane, "model": handover.model}
            failed = Failed(**answer, end=unpublished.end, error=error.report())
            return await _finish(lane, run, "failed", failed, unpublished.end, error.code, failed_on=handover.lane)
        case TryAgain() as retry:
            return await _requeue(lane, run, retry, unpublished, code_of(outcome))
        case _:
            assert_never(decision)


async def _fail(lane: Lane, run: Run, error: LlmError, unpublished: Unpublished) -> RequestOutcome:
    failed = Failed(**_answer_fields(lane, run, unpublished), end=unpublished.end, error=error.report())
    return await _finish(lane, run, "failed", failed, unpublished.end, error.code)


async def _finish(
    lane: Lane,
    run: Run,
    ending: Ending,
    message: ChannelMessage,
    end: int,
    code: str = "",
    failed_on: str | None = None,
) -> RequestOutcome:
    """Record the ending in the pool.

    Args:
        failed_on: the lane that failed, if it is not this lane; '' if it is unknown.
    """
    wire = run.outlet.write_ending(message)

    async def record() -> str:
        args = (run.id, run.attempt, lane.worker, ending, end, code, wire)
        return await lane.pool.requests.finish(*args, lane=failed_on) or "stale"

    reply = await _retry_until_recorded(lane, run, record)
    if reply in (None, "stale"):
        return "left"
    if isinstance(message, Completed | Failed):
        run.outlet.end(wire, deltas=len(message.deltas), missed=reply == "missed")
    else:
        run.outlet.end(wire)
    return ending


async def _requeue(
    lane: Lane, run: Run, retry: TryAgain, unpublished: Unpublished, why: str, error: LlmError | None = None
) -> RequestOutcome:
    """Requeue the request.

    Args:
        why: why the attempt ended, as a code.
        error: the error of the attempt, which ends the request if the retry budget is spent.
    """
    queue = replace(Queue.of(run.claim.envelope), needs=retry.needs)
    state = await _retry_until_recorded(
        lane,
        run,
        lambda: lane.pool.requests.requeue(
            *(run.id, run.attempt, lane.worker, retry.due_ms),
            queue=queue,
            counts=retry.counts,
            alone=retry.alone,
            cause=why,
            longest_delay_ms=retry.longest_delay_ms,
            span=current_span(),
        ),
    )
    if state == "spent" and error is not None:
        return await _fail(lane, run, decide_without_budget(error).error, unpublished)
    if state == "lost":
        return await _recover(lane, run, PayloadLost(), unpublished, why)
    run.outlet.discard()
    match state:
        case "waiting" | "delayed":
            return "requeued"
        case "cancelled" | "expired":
            return state
        case _:
            return "left"


async def _forget(lane: Lane, run: Run) -> RequestOutcome:
    """Have the pool forget a request that it cannot run again, and leave it to its agent, which submits it again."""
    run.renews_lease = False
    await lane.heartbeat.beat()  # waits for the beat under way, which would restore the request if it came later
    state = await _retry_until_recorded(lane, run, lambda: lane.pool.requests.forget(run.id, run.attempt, lane.worker))
    run.outlet.discard()
    match state:
        case "cancelled" | "expired":
            return state
        case _:
            return "left"


async def _retry_until_recorded(lane: Lane, run: Run, call: Callable[[], Awaitable[T]]) -> T | None:
    """Repeat the call until the pool answers. Return None when it is too late to report the end of the attempt.

    A worker that shuts down tries for up to `requeue_s`: an attempt left to its lease would keep its agent waiting.
    """
    clock, was_outdated = asyncio.get_running_loop().time, False

    def should_give_up() -> bool:
        # The attempt may be outdated because an earlier call ended it and only the reply was lost. One more call after
        # the attempt became outdated shows whether that is so.
        nonlocal was_outdated
        useless, was_outdated = was_outdated, run.stop_reason == "stale"
        return useless or clock() > min(run.deadline + _PAST_DEADLINE_S, lane.runs.closed_at + lane.timings.requeue_s)

    action = f"finish attempt {run.attempt} of request {run.id}"
    try:
        return await retry_until_answered(lane, action, call, should_give_up, LlmError)
    except LlmError:
        logger.error(
            "attempt %d of request %s could not be finished; a router recovers the request when its lease runs out",
            run.attempt,
            run.id,
        )
        return None
