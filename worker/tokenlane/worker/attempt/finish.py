"""Ends an attempt: its request is finished, requeued, or left to the worker that has it now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar, assert_never

from tokenlane.routing.carry_out_recovery import known_policy
from tokenlane.routing.contract.errors import LlmError, PoolKeyMismatch
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.messages import Cancelled, ChannelMessage, Completed, Expired, Failed
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.decide.order import Queue
from tokenlane.routing.decide.recovery import (
    AttemptFailed,
    Cause,
    Continue,
    End,
    PoolForgot,
    TryAgain,
    WorkerDraining,
    decide,
)
from tokenlane.routing.store.request_life import Ending
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.outlet import Rest
from tokenlane.worker.lane.running_attempts import Run, Stopped

from .outcome import Answered, Ended, Outcome
from .progress import tell

logger = logging.getLogger(__name__)

T = TypeVar("T")

INSIST_PAST_DEADLINE_S = 10.0


async def finish(lane: Lane, run: Run, outcome: Outcome) -> Ended:
    """Say what becomes of the request, however long the pool takes to hear it."""
    rest = await run.outlet.close()
    match outcome:
        case Answered():
            return await _complete(lane, run, outcome, rest)
        case LlmError():
            reached = await _note_failure(lane, outcome, rest)
            return await _recover(lane, run, AttemptFailed(outcome, reached), rest)
        case Stopped("cancelled"):
            return await _finish(lane, run, "cancelled", Cancelled(attempt=run.attempt), rest.first)
        case Stopped("expired"):
            return await _finish(lane, run, "expired", Expired(attempt=run.attempt), rest.first)
        case Stopped("stale"):
            return Ended("left")
        case Stopped():
            return await _recover(lane, run, WorkerDraining(), rest)
        case _:
            assert_never(outcome)


async def _complete(lane: Lane, run: Run, answered: Answered, rest: Rest) -> Ended:
    completed = Completed(
        attempt=run.attempt,
        worker=lane.worker,
        lane=lane.name,
        model=run.outlet.model,
        first=rest.first,
        end=rest.end if answered.result is None else rest.end + 1,
        usage=answered.usage,
        deltas=rest.deltas,
        result=answered.result,
    )
    return await _finish(lane, run, "completed", completed, completed.end)


async def _note_failure(lane: Lane, error: LlmError, rest: Rest) -> bool:
    """Have the lane look to its back end and its keys; whether the attempt reached the back end."""
    if isinstance(error, PoolKeyMismatch) and error.retryable:
        logger.error("lane %r takes no new work: %s", lane.name, error)
        lane.lease.note(error.code)
        lane.availability.withdraw()
        await lane.lease.beat()
        return False
    if rest.first > 0:
        lane.readiness.suspect()
        return True
    return not await lane.readiness.failed(error)


async def _recover(lane: Lane, run: Run, cause: Cause, rest: Rest) -> Ended:
    policy = await _insist(lane, run, lambda: known_policy(lane.pool))
    if policy is None:
        return Ended("left")
    decision = decide(cause, run.history(lane.name, rest.first), policy)
    match decision:
        case End(error):
            return await _fail(lane, run, error, rest)
        case TryAgain() as again:
            if isinstance(cause, AttemptFailed) and KINDS[run.started.envelope.kind].is_long:
                why = cause.error.message.partition(":")[0]
                await tell(lane, run, Progress(step=f"lane {lane.name}: {why}; trying again"))
            return await _requeue(lane, run, again, rest)
        case Continue(needs):
            return await _requeue(lane, run, TryAgain(needs), rest)
        case _:
            assert_never(decision)


async def _fail(lane: Lane, run: Run, error: LlmError, rest: Rest) -> Ended:
    failed = Failed(
        attempt=run.attempt,
        worker=lane.worker,
        lane=lane.name,
        model=run.outlet.model,
        first=rest.first,
        end=rest.end,
        error=error.report(),
        deltas=rest.deltas,
    )
    return await _finish(lane, run, "failed", failed, rest.end, error)


async def _finish(
    lane: Lane, run: Run, ending: Ending, message: ChannelMessage, end: int, error: LlmError | None = None
) -> Ended:
    wire, code = message.to_wire(), error.code if error else ""
    done = await _insist(
        lane, run, lambda: lane.pool.requests.finish(run.id, run.attempt, lane.worker, ending, end, code, wire)
    )
    if not done:
        return Ended("left")
    run.outlet.end(wire)
    return Ended(ending, error)


async def _requeue(lane: Lane, run: Run, again: TryAgain, rest: Rest) -> Ended:
    queue = replace(Queue.of(run.started.envelope), needs=again.needs)

    async def requeue() -> str:
        return await lane.pool.requests.requeue(
            run.id, run.attempt, lane.worker, again.due_ms, queue=queue, counts=again.counts, alone=again.alone
        )

    state = await _insist(lane, run, requeue)
    if state == "lost":
        return await _recover(lane, run, PoolForgot(kept=False), rest)
    run.outlet.discard()
    match state:
        case "waiting" | "delayed":
            return Ended("requeued")
        case "cancelled" | "expired":
            return Ended(state)
        case _:
            return Ended("left")


async def _insist(lane: Lane, run: Run, call: Callable[[], Awaitable[T]]) -> T | None:
    """Repeat the call until the pool answers; None once that is of no use, or the worker is to shut down."""
    clock = asyncio.get_running_loop().time
    failing = outdated = False
    while True:
        try:
            return await call()
        except LlmError as error:
            if not failing:
                logger.warning("the end of attempt %d of %s has to wait: %s", run.attempt, run.id, error)
            failing = True
        if lane.runs.closing or outdated or clock() > run.deadline + INSIST_PAST_DEADLINE_S:
            logger.error("attempt %d of %s is left to its lease", run.attempt, run.id)
            return None
        # Outdated is also what was ended by a call whose answer was lost: the next one tells.
        outdated = run.reason == "stale"
        await asyncio.sleep(lane.timings.insist_every_s)
