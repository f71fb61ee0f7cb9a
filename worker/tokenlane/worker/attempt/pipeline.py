"""Runs one attempt of one request, in steps:

    claim ──▶ read ──▶ resume ──▶ perform ──▶ finish ──▶ observe

`claim` has the pool start the attempt for this worker. `read` opens the request. `resume` asks the agent after a first
attempt how much of the answer it has. `perform` streams the answer, or makes another result. `finish` tells the pool
how the attempt ended, once the HTTP stream is closed. `observe` makes one event of that for log, span and report.

All between claim and finish is broken off at the deadline and by `Run.stop`. However it ends is an `Outcome`, and
`finish` alone decides what becomes of the request.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from opentelemetry.trace import Span

from tokenlane.routing.contract.errors import LlmError, ProviderDown
from tokenlane.routing.store.request_life import ClaimedAttempt
from tokenlane.routing.telemetry import processing
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run, Stopped

from .finish import finish
from .observe import attempt_span, emit, observe
from .outcome import Outcome, RequestOutcome
from .perform import perform
from .read import read
from .resume import resume
from .retry_until_answered import retry_until_answered

logger = logging.getLogger(__name__)


async def run_request(lane: Lane, request_id: str, attempt: int) -> None:
    """Run an attempt to its end. Failures end or requeue the request, and are not raised.

    Cancellation: the model server's stream is closed, and the request is requeued or ends as interrupted.
    """
    started = await _claim(lane, request_id, attempt)
    if started is None:
        return
    run = Run(started, attempt, lane.publisher.open(request_id, attempt, started.model))
    span_of = processing(started.envelope, lane.name, attempt, started.model)
    with lane.runs.register(run), span_of as span:
        try:
            outcome = await _produce(lane, run)
        except asyncio.CancelledError:
            with suppress(TimeoutError):
                async with asyncio.timeout(lane.timings.requeue_s):
                    await _end(lane, run, Stopped("draining"), span)
            raise
        await _end(lane, run, outcome, span)


async def _claim(lane: Lane, request_id: str, attempt: int) -> ClaimedAttempt | None:
    """Claim the attempt, so that no other worker runs it; None if another worker has it, or this worker shuts down.

    The call is repeated, since a server that did not answer may still have started the attempt.
    """
    if lane.runs.closing:
        return None
    return await retry_until_answered(
        lane,
        f"the start of attempt {attempt} of {request_id}",
        lambda: lane.pool.requests.start(request_id, attempt, lane.worker),
    )


async def _end(lane: Lane, run: Run, outcome: Outcome, span: Span) -> None:
    request_outcome: RequestOutcome = "left"
    try:
        request_outcome = await finish(lane, run, outcome)
    finally:
        if request_outcome == "left":
            run.outlet.discard()
        event = observe(lane.name, run, outcome, request_outcome)
        emit(event, (*lane.observers, attempt_span(span)), lane.pool.internal_errors)


async def _produce(lane: Lane, run: Run) -> Outcome:
    """Read the request, call the model server, and close its stream before returning."""
    try:
        async with run.stoppable():
            request = await read(lane, run.started)
            await resume(lane, run)
            return await perform(lane, run, request)
    except Stopped as stopped:
        return stopped
    except Exception as error:
        provider = lane.availability.announcement.provider
        return _as_ours(error).at(provider=provider, lane=lane.name, model=run.started.model)


def _as_ours(error: Exception) -> LlmError:
    """The error for an unexpected exception. It names only the class, since the text may quote a prompt."""
    if isinstance(error, LlmError):
        return error
    kind = type(error).__name__
    logger.error("a provider failed in a way it should not: %s", kind)
    return ProviderDown(f"the provider failed in a way it should not ({kind}): this is a bug in it", retryable=False)
