"""Runs one attempt of one request, in steps:

    claim ──▶ read ──▶ hook ──▶ resume ──▶ perform ──▶ finish ──▶ observe

`claim` starts the attempt in the pool, for this worker only. `read` opens and validates the request. `hook` lets the
worker's request hook change it. `resume` asks the agent which part of the answer it has, unless this is the first
attempt. `perform` streams the answer or the rest of it, or computes another kind of result. `finish` reports the end of
the attempt to the pool, after the HTTP stream is closed. `observe` turns that end into one event for the log, the trace
span and the worker's report.

The deadline and `Run.stop` interrupt the steps between `claim` and `finish`. The result of these steps is an
`AttemptOutcome`, and only `finish` decides what becomes of the request.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from opentelemetry.trace import Span

from tokenlane.config.cli.log_lines import concerning
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.hooks.request_hook import change_request
from tokenlane.routing.store.replies.claim import ClaimedAttempt
from tokenlane.routing.store.request_life import RequestOutcome
from tokenlane.routing.telemetry.attempt import processing
from tokenlane.routing.telemetry.batches import batch_spans
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run, Stopped

from .finish import finish
from .observe import attempt_span, emit, observe
from .outcome import AttemptOutcome, NotResumed
from .perform import perform
from .read import read
from .resume import resume
from .retry_until_answered import retry_until_answered


async def run_request(lane: Lane, request_id: str, attempt: int) -> None:
    """Run an attempt to its end. A failure ends or requeues the request and is not raised.

    Cancellation: the model server's stream is closed, and the request is requeued.
    """
    with concerning(request_id, attempt):
        started = await _claim(lane, request_id, attempt)
        if started is not None:
            await _run(lane, started, attempt)


async def _run(lane: Lane, started: ClaimedAttempt, attempt: int) -> None:
    request_id = started.envelope.id
    is_sealed = started.envelope.key_id is not None
    run = Run(started, attempt, lane.publisher.open(request_id, attempt, started.model, is_sealed=is_sealed))
    span_of = processing(
        started.envelope,
        lane=lane.name,
        worker=lane.worker,
        attempt=attempt,
        model=started.model,
        waited=started.waited,
    )
    with lane.runs.register(run), span_of as span:
        run.outlet.batch_spans = batch_spans(span, lane.token_spans)
        try:
            outcome = await _run_steps(lane, run)
        except asyncio.CancelledError:
            with suppress(TimeoutError):
                async with asyncio.timeout(lane.timings.requeue_s):
                    await _end(lane, run, Stopped("draining"), span)
            raise
        await _end(lane, run, outcome, span)


async def _claim(lane: Lane, request_id: str, attempt: int) -> ClaimedAttempt | None:
    """Claim the attempt for this worker. Return None if another worker has it, or if this worker is shutting down.

    The call is repeated until the pool answers: a call without a reply may have started the attempt.
    """
    if lane.runs.closing:
        return None
    with suppress(LlmError):
        return await retry_until_answered(
            lane,
            f"start attempt {attempt} of request {request_id}",
            lambda: lane.pool.requests.start(request_id, attempt, lane.worker),
            should_give_up=lambda: lane.runs.closing,
            errors=LlmError,
        )
    return None


async def _end(lane: Lane, run: Run, outcome: AttemptOutcome, span: Span) -> None:
    """Finish the attempt, and emit the event of its end even if that fails."""
    request_outcome: RequestOutcome = "left"
    try:
        request_outcome = await finish(lane, run, outcome)
    finally:
        if request_outcome == "left":
            run.outlet.discard()
        event = observe(lane.name, run, outcome, request_outcome)
        emit(event, (*lane.observers, attempt_span(span)), lane.pool.internal_errors)


async def _run_steps(lane: Lane, run: Run) -> AttemptOutcome:
    """Run the steps `read`, `hook`, `resume` and `perform`. The model server's stream is closed on return."""
    try:
        async with run.stoppable():
            request = await read(lane, run)
            if lane.hooks.request is not None and isinstance(request, ChatRequest):
                request = await change_request(lane.hooks.request, request)
            await resume(lane, run, request)
            return await perform(lane, run, request)
    except (Stopped, NotResumed) as unfinished:
        return unfinished
    except Exception as error:
        failure = error if isinstance(error, LlmError) else _own_bug(lane, error)
        provider = lane.availability.announcement.provider
        return failure.at(provider=provider, lane=lane.name, model=run.claim.model)


def _own_bug(lane: Lane, error: Exception) -> LlmError:
    """Record an unexpected exception of a step, and return the request's error. It names only the exception's class,
    since its text may quote a prompt."""
    lane.pool.internal_errors.record("steps of an attempt", error)
    return LlmError(
        f"The worker raised {type(error).__name__}, which is a bug in tokenlane: its log says where. Please report it.",
        retryable=False,
    )
