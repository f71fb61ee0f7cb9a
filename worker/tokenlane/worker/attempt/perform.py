"""Does the work of a request: streams a chat, embeds texts, carries out a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing, contextmanager

from tokenlane.routing.contract.answers import FinishReason, Usage
from tokenlane.routing.contract.errors import BadRequest, Interrupted, LlmError, NoToolCall, ProviderDown
from tokenlane.routing.contract.requests import ChatRequest, EmbedRequest, ModelCommand, Request
from tokenlane.routing.contract.results import Result
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run

from .outcome import Answered
from .transcript import log_request, logged


async def perform(lane: Lane, run: Run, request: Request) -> Answered:
    """Do the request's work.

    Raises:
        LlmError: the provider raised it. The part of a chat before the error is published.
    """
    result: Result
    match request:
        case ChatRequest():
            with _reporting_errors(lane):
                return await _chat(lane, run, request)
        case EmbedRequest():
            lane.embedder.check_fallback(request)
            with _reporting_errors(lane):
                alone = run.started.starts > 1
                result = await lane.embedder.embed(request, run.started.model, alone=alone)
        case ModelCommand():
            result = await lane.models.carry_out(request, run.outlet.report_progress)
        case _:
            raise BadRequest("this worker does not know this kind of request")
    return Answered(_timed(Usage(), run), result)


async def _chat(lane: Lane, run: Run, request: ChatRequest) -> Answered:
    """Publish the model server's stream as it arrives.

    Raises:
        LlmError: the provider raised it, or the stream ended without a finish reason.
        NoToolCall: the complete answer calls no tool, but the request requires a call.
    """
    outlet, model = run.outlet, run.started.model
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    stream = lane.provider.chat(*provider_arguments(request, model))
    if lane.transcripts:
        log_request(request, run.attempt, model)
        stream = logged(stream, run.id, run.attempt)
    called = False
    async with aclosing(stream):
        async for delta in stream:
            finish_reason = delta.finish_reason or finish_reason
            called = called or bool(delta.tool_calls)
            if delta.usage is not None:
                usage, delta.usage = delta.usage, None  # the ending carries it, with the times
                delta.model_fields_set.discard("usage")
            outlet.put(delta)
            if outlet.is_full:
                await outlet.wait_for_room()
    if finish_reason is None:
        raise Interrupted("the model server's stream ended before the answer was whole", retryable=True)
    if request.must_call_tool and not called:
        raise _no_tool_call(finish_reason)
    return Answered(_timed(usage or Usage(), run))


def provider_arguments(request: ChatRequest, model: str) -> tuple[ChatRequest, str, str | None]:
    """The arguments of a provider's `chat`: the request, the model, and the agent's partial answer, if any."""
    last = request.messages[-1]
    if not request.continue_final or not isinstance(last.content, str):
        return request, model, None
    return request.model_copy(update={"messages": request.messages[:-1], "continue_final": None}), model, last.content


def _no_tool_call(finish_reason: FinishReason) -> NoToolCall:
    """The error for an answer without a required tool call: some servers accept `tool_choice` but ignore it."""
    if finish_reason == "length":
        return NoToolCall(
            "The answer was cut off before it called a tool, as `tool_choice` requires: raise max_tokens."
        )
    return NoToolCall(
        "The answer calls no tool, though `tool_choice` requires it: the server does not enforce it, or its model "
        "knows no tools. Route this role to a model that does, or use tool_choice auto and look at `tool_calls`."
    )


@contextmanager
def _reporting_errors(lane: Lane) -> Iterator[None]:
    """Report the server's errors to the pool by their codes, unless the agent's request or the model is to blame."""
    try:
        yield
        lane.readiness.record_answer()
    except (BadRequest, NoToolCall):
        raise
    except Exception as error:
        lane.heartbeat.report_failure(error.code if isinstance(error, LlmError) else ProviderDown.code)
        raise


def _timed(usage: Usage, run: Run) -> Usage:
    return usage.model_copy(
        update={
            "queue_ms": float(run.started.waited_ms),
            "first_token_ms": run.elapsed_ms(run.outlet.first_put_at),
            "total_ms": run.elapsed_ms(),
            "attempts": run.started.starts,
        }
    )
