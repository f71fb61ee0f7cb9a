"""Runs one attempt of one request: a pipeline of small steps, each in the module of its name.

    claim ──▶ read ──▶ resume ──▶ perform ──▶ finish ──▶ observe
    pool.     what to  where the  a chat's    tell the   one event for
    start     do       agent has  stream, or  pool, once log, span, report
                       got to     a result    the HTTP
                                              stream is
                                              closed

What happens between claim and finish is broken off at the deadline and by `Run.stop`. However it ends is an `Outcome`,
and `finish` alone says what becomes of the request.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from opentelemetry.trace import Span

from tokenlane.routing.contract.errors import LlmError, ProviderDown
from tokenlane.routing.telemetry import processing
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run, Stopped

from .claim import claim
from .finish import finish
from .observe import attempt_span, emit, observe
from .outcome import Ended, Outcome
from .perform import perform
from .read import read
from .resume import resume

logger = logging.getLogger(__name__)


async def run_request(lane: Lane, request_id: str, attempt: int) -> None:
    """Run an attempt to its end. Its failures are the request's; none is raised.

    Cancellation: the back end's stream is closed and the request given back, or ended as interrupted.
    """
    started = await claim(lane, request_id, attempt)
    if started is None:
        return
    run = Run(started, attempt, lane.publisher.open(request_id, attempt, started.model))
    span_of = processing(started.envelope, lane.name, attempt, started.model)
    with lane.runs.holding(run), span_of as span:
        try:
            outcome = await _produce(lane, run)
        except asyncio.CancelledError:
            with suppress(TimeoutError):
                async with asyncio.timeout(lane.timings.last_words_s):
                    await _end(lane, run, Stopped("draining"), span)
            raise
        await _end(lane, run, outcome, span)


async def _end(lane: Lane, run: Run, outcome: Outcome, span: Span) -> None:
    ended = Ended("left")
    try:
        ended = await finish(lane, run, outcome)
    finally:
        if ended.how == "left":
            run.outlet.discard()
        event = observe(lane.name, run, outcome, ended)
        emit(event, (*lane.observers, attempt_span(span)), lane.pool.internal_errors)


async def _produce(lane: Lane, run: Run) -> Outcome:
    """Everything from reading the request to the end of the back end's stream, which is closed when this returns."""
    try:
        async with run.stoppable():
            request = await read(lane.pool, run.started)
            await resume(lane, run)
            return await perform(lane, run, request)
    except Stopped as stopped:
        return stopped
    except Exception as error:
        provider = lane.availability.announcement.provider
        return _as_ours(error).at(provider=provider, lane=lane.name, model=run.started.model)


def _as_ours(error: Exception) -> LlmError:
    """An error that providers should not raise is reported by its class alone: its text may quote a prompt."""
    if isinstance(error, LlmError):
        return error
    kind = type(error).__name__
    logger.error("a provider failed in a way it should not: %s", kind)
    return ProviderDown(f"the provider failed in a way it should not ({kind}): this is a bug in it", retryable=False)
