"""What becomes of a request, now that an attempt of it is over: it is ended, given back, or left to who has it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar, assert_never

from tokenlane.routing.contract.errors import Interrupted, LlmError, PoolKeyMismatch
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.messages import (
    Cancelled,
    ChannelMessage,
    Completed,
    Expired,
    Failed,
    Progress,
    Result,
    Usage,
)
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.recovery import Budget, Requeue, decide
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies import Ending
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.publisher import Rest

from .attempts import Run, StopReason
from .progress import tell

__all__ = ["Answered", "Broken", "Outcome", "Stopped", "policy_of", "settle"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

INSIST_EVERY_S = 0.2
INSIST_PAST_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Answered:
    """The back end says that the answer is whole. `result`: what came of a request that is no chat."""

    usage: Usage
    result: Result | None = None


@dataclass(frozen=True)
class Broken:
    """The attempt failed."""

    error: LlmError


@dataclass(frozen=True)
class Stopped:
    """The attempt was broken off, or not begun."""

    reason: StopReason


Outcome: TypeAlias = Answered | Broken | Stopped


async def settle(lane: Lane, run: Run, outcome: Outcome) -> None:
    """Say what becomes of the request, however long the pool takes to hear it."""
    rest = await run.outlet.close()
    match outcome:
        case Answered(usage, result):
            completed = Completed(
                attempt=run.attempt,
                worker=lane.worker,
                lane=lane.name,
                model=run.outlet.model,
                first=rest.first,
                end=rest.end if result is None else rest.end + 1,
                usage=usage,
                deltas=rest.deltas,
                result=result,
            )
            await _finish(lane, run, "completed", completed, completed.end)
        case Broken(error):
            await _settle_failure(lane, run, error, rest)
        case Stopped(reason):
            await _settle_stop(lane, run, reason, rest)
        case _:
            assert_never(outcome)


async def _settle_failure(lane: Lane, run: Run, error: LlmError, rest: Rest) -> None:
    keyless = isinstance(error, PoolKeyMismatch) and error.retryable
    if keyless:
        logger.error("lane %r takes no new work: %s", lane.name, error)
        lane.lease.note(error.code)
        await lane.lease.withdraw()
    reached = not keyless
    if rest.first > 0:
        lane.readiness.suspect()
    elif not keyless:
        reached = not await lane.readiness.failed(error)
    budget = Budget(
        starts=run.started.starts,
        max_starts=(await policy_of(lane.pool)).max_starts,
        delivered=rest.first,
        left_ms=run.left_ms,
        reached=reached,
    )
    decision = decide(error, budget)
    logger.info("attempt %d of %s failed: %s", run.attempt, run.id, error)
    if isinstance(decision, Requeue):
        if KINDS[run.started.envelope.kind].is_long:
            why = error.message.partition(":")[0]
            await tell(lane, run, Progress(step=f"lane {lane.name}: {why}; trying again"))
        await _requeue(lane, run, decision)
    else:
        await _fail(lane, run, error, rest)


async def _settle_stop(lane: Lane, run: Run, reason: StopReason, rest: Rest) -> None:
    match reason:
        case "stale":
            run.outlet.discard()
        case "cancelled":
            await _finish(lane, run, "cancelled", Cancelled(attempt=run.attempt), rest.first)
        case "expired":
            await _finish(lane, run, "expired", Expired(attempt=run.attempt), rest.first)
        case "draining" if rest.first == 0:
            await _requeue(lane, run, Requeue(0))
        case "draining":
            error = Interrupted("the worker was shut down in the middle of the answer: send it again", lane=lane.name)
            await _fail(lane, run, error, rest)
        case _:
            assert_never(reason)


async def _fail(lane: Lane, run: Run, error: LlmError, rest: Rest) -> None:
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
    await _finish(lane, run, "failed", failed, rest.end, error.code)


async def _finish(lane: Lane, run: Run, ending: Ending, message: ChannelMessage, end: int, code: str = "") -> None:
    wire = message.to_wire()
    done = await _insist(lane, run, lambda: lane.pool.finish(run.id, run.attempt, lane.worker, ending, end, code, wire))
    if done:
        run.outlet.end(wire)
    else:
        run.outlet.discard()


async def _requeue(lane: Lane, run: Run, again: Requeue) -> None:
    await _insist(
        lane, run, lambda: lane.pool.requeue(run.id, run.attempt, lane.worker, again.due_ms, counts=again.counts)
    )
    run.outlet.discard()


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
        await asyncio.sleep(INSIST_EVERY_S)


async def policy_of(pool: Pool) -> Policy:
    """The pool's policy; the default if the pool does not answer."""
    try:
        return await pool.policy()
    except LlmError:
        return Policy()
