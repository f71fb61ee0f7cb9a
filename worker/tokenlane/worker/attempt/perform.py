"""Performs the work of a request: streams a chat, embeds texts, or carries out a model command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager

from tokenlane.routing.contract.answers import FinishReason, Usage
from tokenlane.routing.contract.errors import BadRequest, HookFailed, Interrupted, LlmError, NoToolCall, ProviderDown
from tokenlane.routing.contract.messages import Handover
from tokenlane.routing.contract.requests import ChatRequest, EmbedRequest, ModelCommand, Request
from tokenlane.routing.contract.results import Result
from tokenlane.routing.telemetry.attempt import ModelCall, calling
from tokenlane.worker.hooks.filtered_answer import filter_answer
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run

from .outcome import Answered
from .render import render
from .resume import resume_or_leave
from .transcript import log_answer, log_request

logger = logging.getLogger(__name__)


async def perform(lane: Lane, run: Run, request: Request) -> Answered:
    """Perform the request. A chat is published while the model server answers; other results are returned.

    Raises:
        LlmError: the provider failed. A chat's deltas before the error are published all the same.
    """
    result: Result
    match request:
        case ChatRequest():
            return await _chat(lane, run, request)
        case EmbedRequest():
            lane.embedder.check_fallback(request)
            with _naming_bugs(), _reporting_errors(lane, run):
                alone = run.claim.starts > 1
                result, is_computed = await lane.embedder.embed(
                    request, run.claim.model, alone=alone, calling=lambda: _calling(lane, run)
                )
            if is_computed:
                lane.readiness.record_answer(run)
        case ModelCommand():
            with _naming_bugs():
                result = await lane.models.carry_out(request, run.outlet.report_progress)
        case _:
            raise BadRequest("This worker does not support this kind of request: update tokenlane on the worker.")
    return Answered(_timed(Usage(), run), result)


async def _chat(lane: Lane, run: Run, request: ChatRequest) -> Answered:
    """Publish the answer, from its beginning or after the part that the agent has.

    Raises:
        NotResumed: the model server refuses to continue the answer.
        PluginFailed: the role's prompt plugin failed.
        LlmError: see `_stream`.
    """
    partial = run.partial
    if partial is not None and partial.finish_reason is not None:
        has_call = partial.obstacle == "tool_call" or partial.finish_reason == "tool_calls"
        if request.must_call_tool and not has_call:
            raise _no_tool_call(partial.finish_reason)
        return Answered(_timed(_with_delivered(Usage(), partial.tokens), run))
    request = await render(lane, run, request)
    try:
        return await _stream(lane, run, request)
    except BadRequest as error:
        if partial is None or run.outlet.first_put_at is not None:
            raise
        # Another lane accepted the request before, so this model server refuses the partial answer.
        if lane.name not in run.claim.needs.avoid:
            raise _cannot_continue(error) from None
    await resume_or_leave(lane, run, partial, can_prefill=False)
    return await _stream(lane, run, request)


def _cannot_continue(error: BadRequest) -> Interrupted:
    """The error that has another lane continue the answer. The advice in the message is for requests of agents."""
    return Interrupted(f"{error.message.partition(':')[0].rstrip('.')}.", retryable=True, detail=error.detail)


async def _stream(lane: Lane, run: Run, request: ChatRequest) -> Answered:
    """Publish the deltas of the model server's answer as they arrive.

    Raises:
        LlmError: the provider failed, or the stream ended without a finish reason.
        HookFailed: the worker's token hook failed.
        NoToolCall: the complete answer calls no tool, but the request requires a call.
    """
    with _naming_bugs(), _calling(lane, run) as call, _reporting_errors(lane, run):
        return await _publish(lane, run, request, call)


def _calling(lane: Lane, run: Run) -> AbstractContextManager[ModelCall]:
    """The span of the call of the model server."""
    server = lane.availability.announcement
    kind, model = run.claim.envelope.kind, run.claim.model
    return calling(kind, provider=server.provider, endpoint=server.endpoint, model=model)


async def _publish(lane: Lane, run: Run, request: ChatRequest, call: ModelCall) -> Answered:
    outlet, model = run.outlet, run.claim.model
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    stream = lane.provider.chat(*provider_arguments(request, model, run.partial))
    if lane.hooks.token is not None:
        stream = filter_answer(lane.hooks.token, stream, "" if run.partial is None else run.partial.text)
    if lane.transcripts:
        log_request(request, run.attempt, model)
        stream = log_answer(stream, run.id, run.attempt)
    called = False
    async with aclosing(stream):
        async for delta in stream:
            finish_reason = delta.finish_reason or finish_reason
            called = called or bool(delta.tool_calls)
            if delta.usage is not None:
                usage, delta.usage = delta.usage, None  # `Completed` carries the usage, with the times
                delta.model_fields_set.discard("usage")
            outlet.put(delta)
            if outlet.is_full:
                await outlet.wait_for_room()
    if finish_reason is None:
        raise Interrupted("The model server's stream ended before the answer was complete.", retryable=True)
    call.receive(finish_reason, usage, run.outlet.first_put_at)
    lane.readiness.record_answer(run)
    if request.must_call_tool and not called:
        raise _no_tool_call(finish_reason)
    if usage is not None and run.partial is not None:
        usage = _with_delivered(usage, _prefilled(run.partial))
    return Answered(_timed(usage or Usage(), run))


def provider_arguments(
    request: ChatRequest, model: str, partial: Handover | None = None
) -> tuple[ChatRequest, str, str | None]:
    """The arguments of a provider's `chat`: the request, the model, and the text to continue, if any. This text is the
    agent's own beginning of the answer, followed by the part that earlier attempts delivered."""
    changes: dict[str, object] = {}
    begun, last = "", request.messages[-1]
    if request.continue_final and isinstance(last.content, str):
        begun = last.content
        changes |= {"messages": request.messages[:-1], "continue_final": None}
    elif partial is None:
        return request, model, None
    if partial is not None:
        begun += partial.text
        if request.max_tokens is not None:
            changes["max_tokens"] = request.max_tokens - _prefilled(partial)
    return request.model_copy(update=changes), model, begun or None


def _prefilled(partial: Handover) -> int:
    """How many of the delivered tokens the model server gets as part of the prompt. It gets no whitespace at the end,
    which models continue badly, and so generates that token again."""
    return partial.tokens - partial.text[-1:].isspace()


def _no_tool_call(finish_reason: FinishReason) -> NoToolCall:
    """The error for an answer without the required tool call. Some servers accept `tool_choice` and ignore it."""
    if finish_reason == "length":
        return NoToolCall(
            "The answer reached its length limit before the tool call that `tool_choice` requires: raise `max_tokens`."
        )
    return NoToolCall(
        "The answer calls no tool, although `tool_choice` requires a call: the model server does not enforce it, or "
        'its model does not support tools. Route this role to a model that does, or use tool_choice "auto" and check '
        "the answer's `tool_calls`."
    )


@contextmanager
def _naming_bugs() -> Iterator[None]:
    """Raise an unexpected exception of the provider as a `ProviderDown` that names only its class, since its text may
    quote a prompt."""
    try:
        yield
    except LlmError:
        raise
    except Exception as error:
        kind = type(error).__name__
        logger.error("a bug in the provider: it raised %s", kind)
        raise ProviderDown(f"The provider raised {kind}, which is a bug in the provider.", retryable=False) from None


@contextmanager
def _reporting_errors(lane: Lane, run: Run) -> Iterator[None]:
    """Report an error in the block to the pool, as a failure of the model server, unless the request or a hook caused
    it."""
    try:
        yield
    except (BadRequest, NoToolCall, HookFailed):
        raise
    except Exception as error:
        lane.heartbeat.report_failure(error.code if isinstance(error, LlmError) else ProviderDown.code)
        lane.readiness.record_error(run, error)
        raise


def _with_delivered(usage: Usage, tokens: int) -> Usage:
    """The usage of the whole answer. The server of the last attempt counts the tokens that earlier attempts delivered
    as part of the prompt."""
    prompt_tokens = max(0, usage.prompt_tokens - tokens)
    return usage.model_copy(
        update={
            "prompt_tokens": prompt_tokens,
            "completion_tokens": usage.completion_tokens + tokens,
            "cached_tokens": min(usage.cached_tokens, prompt_tokens),
        }
    )


def _timed(usage: Usage, run: Run) -> Usage:
    """The usage, with the times and the number of starts of the request."""
    return usage.model_copy(
        update={
            "queue_ms": float(run.claim.waited_ms),
            "first_token_ms": run.elapsed_ms(run.outlet.first_put_at),
            "total_ms": run.elapsed_ms(),
            "attempts": run.claim.starts,
        }
    )
