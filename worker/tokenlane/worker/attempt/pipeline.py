"""Runs one attempt of one request: a pipeline of small steps.

    claim ── pool.start ──▶ read ──▶ agree ──▶ perform ──▶ settle ── pool.finish or pool.requeue
                            what to    how far   a chat's    after the HTTP stream
                            do         the agent stream, or  is closed
                                       has got   a result

What happens between claim and settle is broken off at the deadline and when the run is told to stop; its result is an
`Outcome`. Only `settle` says what becomes of the request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial

from pydantic import ValidationError

from tokenlane.routing.contract.errors import (
    BadRequest,
    Interrupted,
    LlmError,
    NoToolCall,
    PoolUnavailable,
    ProviderDown,
)
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.messages import (
    ChatRequest,
    EmbedRequest,
    FinishReason,
    Handover,
    ModelCommand,
    Result,
    Resume,
    Usage,
)
from tokenlane.routing.contract.requests import Request
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies import Started
from tokenlane.routing.support.telemetry import processing
from tokenlane.worker.lane.lane import Lane

from .attempts import Run, StopReason
from .chat_rules import begun, no_call
from .finish import Answered, Broken, Outcome, Stopped, policy_of, settle
from .progress import tell
from .transcript import log_request, logged

__all__ = ["run_request"]

logger = logging.getLogger(__name__)

ASK_EVERY_S = 0.2
CLAIM_EVERY_S = 0.2
LAST_WORDS_S = 3.0


class _Stop(Exception):
    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason: StopReason = reason


async def run_request(
    lane: Lane, request_id: str, attempt: int, started: Started | None = None, *, marked: bool = False
) -> None:
    """Run an attempt to its end. Its failures are the request's; none is raised.

    Args:
        started: what `claim` gives, if the attempt was started already.
        marked: ARQ's mark on the job is ours.

    Cancellation: the back end's stream is closed and the request given back, or ended as interrupted.
    """
    if started is None:
        started = await claim(lane, request_id, attempt, marked=marked)
    if started is None:
        return
    run = Run(started, attempt, lane.publisher.open(request_id, attempt, started.model))
    span_of = processing(started.envelope, lane.name, attempt, started.model)
    with lane.runs.holding(run), span_of as span:
        try:
            outcome = await produce(lane, run)
        except asyncio.CancelledError:
            async with asyncio.timeout(LAST_WORDS_S):
                await settle(lane, run, Stopped("draining"))
            raise
        if not isinstance(outcome, Answered):
            span.set_attribute("error.type", outcome.error.code if isinstance(outcome, Broken) else outcome.reason)
        await settle(lane, run, outcome)


async def claim(lane: Lane, request_id: str, attempt: int, *, marked: bool) -> Started | None:
    """Take the attempt; None if it is not ours to run, or the worker is to shut down.

    Asked until there is an answer: a server that was silent may have given us the attempt all the same.
    """
    failing = False
    while not lane.runs.closing:
        try:
            return await lane.pool.start(request_id, attempt, lane.worker, marked=marked)
        except LlmError as error:
            if not failing:
                logger.warning("the start of attempt %d of %s has to wait: %s", attempt, request_id, error)
            failing = True
        await asyncio.sleep(CLAIM_EVERY_S)
    return None


async def produce(lane: Lane, run: Run) -> Outcome:
    """Everything from reading the request to the end of the back end's stream, which is closed when this returns."""
    try:
        async with run.stoppable():
            request = await read(lane.pool, run.started)
            await agree(lane, run)
            return await perform(lane, run, request)
    except _Stop as stop:
        return Stopped(stop.reason)
    except Exception as error:
        if run.reason is not None:
            return Stopped(run.reason)
        return Broken(_as_ours(error).at(provider=lane.announcement.provider, lane=lane.name, model=run.started.model))


@contextmanager
def _noting(lane: Lane) -> Iterator[None]:
    """Let the pool know of the back end's errors, by their codes. A bad request is the agent's, prose the model's."""
    try:
        yield
        lane.readiness.answered()
    except (BadRequest, NoToolCall):
        raise
    except Exception as error:
        lane.lease.note(error.code if isinstance(error, LlmError) else ProviderDown.code)
        raise


async def read(pool: Pool, started: Started) -> Request:
    """Open the payload. The pool is asked about an unknown key until it answers.

    Raises:
        BadRequest: it is no request of its kind, or not as it was sealed.
        PoolKeyMismatch: it is sealed with a key this worker does not have; `retryable` if another may have it.
    """
    try:
        while True:
            try:
                payload = await pool.unseal(started.envelope, started.payload)
                return KINDS[started.envelope.kind].request.model_validate_json(payload)
            except PoolUnavailable:
                await asyncio.sleep(CLAIM_EVERY_S)
    except ValidationError as error:
        fields = sorted({str(part["loc"][0]) for part in error.errors(include_input=False) if part["loc"]})
        raise BadRequest(f"the request could not be read; check {', '.join(fields) or 'its JSON'}") from None


async def agree(lane: Lane, run: Run) -> None:
    """Before a request is run again, ask the agent how far it has got.

    Raises:
        Interrupted: it has a part of the answer already, which cannot be continued.
    """
    if run.started.starts == 1:
        return
    handover = await _ask_agent(lane, run)
    if handover is None or handover.state == "done":
        raise _Stop("cancelled")
    if handover.state == "stale":
        raise _Stop("stale")
    if handover.position > 0:
        run.outlet.start_at(handover.position)
        raise Interrupted("the worker that ran it went away after a part of the answer was delivered: send it again")


async def _ask_agent(lane: Lane, run: Run) -> Handover | None:
    """The agent's answer, or None if there is no agent any more. Time without Redis does not count."""
    clock = asyncio.get_running_loop().time
    patience_s = (await policy_of(lane.pool)).orphan_ms / 1000
    question = Resume(attempt=run.attempt, worker=lane.worker).to_wire()
    until = clock() + patience_s
    while clock() < until:
        try:
            await lane.pool.publish([(lane.pool.keys.deltas(run.id), question)])
        except LlmError:
            until = clock() + patience_s
        answered, _ = await asyncio.wait({run.handover}, timeout=ASK_EVERY_S)
        if answered:
            return run.handover.result()
    return None


async def perform(lane: Lane, run: Run, request: Request) -> Answered:
    """Do what is asked.

    Raises:
        LlmError: as the provider raises; what came of a chat before that is published.
    """
    result: Result
    match request:
        case ChatRequest():
            with _noting(lane):
                return await answer(lane, run, request)
        case EmbedRequest():
            lane.embedder.check(request)
            with _noting(lane):
                alone = run.started.starts > 1
                result = await lane.embedder.embed(request, run.started.model, alone=alone)
        case ModelCommand():
            result = await lane.models.carry_out(request, partial(tell, lane, run))
        case _:
            raise BadRequest("this worker does not know what to do with this kind of request")
    return Answered(_timed(Usage(), run), result)


async def answer(lane: Lane, run: Run, request: ChatRequest) -> Answered:
    """Publish the back end's stream as it comes.

    Raises:
        LlmError: as the provider raises, or if the stream ends without saying that the answer is whole.
        NoToolCall: it is whole, and calls no tool, though that was asked for.
    """
    outlet, model = run.outlet, run.started.model
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    stream = lane.provider.chat(*begun(request, model))
    if lane.transcripts:
        log_request(request, run.attempt, model)
        stream = logged(stream, run.id, run.attempt)
    called = False
    async with aclosing(stream):
        async for delta in stream:
            finish_reason = delta.finish_reason or finish_reason
            called = called or bool(delta.tool_calls)
            if delta.usage is not None:
                usage, delta.usage = delta.usage, None  # the ending says it, with the times
                delta.model_fields_set.discard("usage")
            outlet.put(delta)
            if outlet.crowded:
                await outlet.room()
    if finish_reason is None:
        raise Interrupted("the back end's stream ended before the answer was whole", retryable=True)
    if request.must_call and not called:
        raise no_call(finish_reason)
    return Answered(_timed(usage or Usage(), run))


def _timed(usage: Usage, run: Run) -> Usage:
    now, first_put_at = asyncio.get_running_loop().time(), run.outlet.first_put_at
    return usage.model_copy(
        update={
            "queue_ms": float(run.started.waited_ms),
            "first_token_ms": round(1000 * ((first_put_at or now) - run.since), 1),
            "total_ms": round(1000 * (now - run.since), 1),
            "attempts": run.started.starts,
        }
    )


def _as_ours(error: Exception) -> LlmError:
    """An error that providers should not raise is told by its class alone: its text may quote a prompt."""
    if isinstance(error, LlmError):
        return error
    kind = type(error).__name__
    logger.error("a provider failed in a way it should not: %s", kind)
    return ProviderDown(f"the provider failed in a way it should not ({kind}): this is a bug in it", retryable=False)
