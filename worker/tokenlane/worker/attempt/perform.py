"""Does what a request asks: streams a chat, embeds texts, carries out a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial

from tokenlane.routing.contract.answers import FinishReason, Usage
from tokenlane.routing.contract.errors import BadRequest, Interrupted, LlmError, NoToolCall, ProviderDown
from tokenlane.routing.contract.requests import ChatRequest, EmbedRequest, ModelCommand, Request
from tokenlane.routing.contract.results import Result
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run

from .outcome import Answered
from .progress import tell
from .transcript import log_request, logged


async def perform(lane: Lane, run: Run, request: Request) -> Answered:
    """Do what is asked.

    Raises:
        LlmError: as the provider raises; what came of a chat before that is published.
    """
    result: Result
    match request:
        case ChatRequest():
            with _noting(lane):
                return await _chat(lane, run, request)
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


async def _chat(lane: Lane, run: Run, request: ChatRequest) -> Answered:
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
        raise _no_call(finish_reason)
    return Answered(_timed(usage or Usage(), run))


def begun(request: ChatRequest, model: str) -> tuple[ChatRequest, str, str | None]:
    """What a provider is asked: the request, the model, and the text to continue from, if the agent has begun one."""
    last = request.messages[-1]
    if not request.continue_final or not isinstance(last.content, str):
        return request, model, None
    return request.model_copy(update={"messages": request.messages[:-1], "continue_final": None}), model, last.content


def _no_call(finish_reason: FinishReason) -> NoToolCall:
    """The error for an answer that had to call a tool, and does not: servers may take `tool_choice` and ignore it."""
    if finish_reason == "length":
        return NoToolCall(
            "The answer was cut off before it called a tool, as `tool_choice` requires: raise max_tokens."
        )
    return NoToolCall(
        "The answer calls no tool, as `tool_choice` requires: the back end does not enforce it, or its model knows no "
        "tools. Route this role to one that does, or ask with tool_choice auto and look at `tool_calls`."
    )


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


def _timed(usage: Usage, run: Run) -> Usage:
    return usage.model_copy(
        update={
            "queue_ms": float(run.started.waited_ms),
            "first_token_ms": run.ms_until(run.outlet.first_put_at),
            "total_ms": run.ms_until(),
            "attempts": run.started.starts,
        }
    )
