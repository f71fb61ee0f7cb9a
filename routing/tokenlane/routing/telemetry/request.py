"""The span of a request in the agent's process: `llm.request`, or `fetch_response` for a client that attaches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

from tokenlane.routing.contract.answers import FinishReason, Usage
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError, RequestCancelled
from tokenlane.routing.contract.kinds import KINDS

from . import conventions as names
from .tracer import carry, is_off, tracer


@dataclass(frozen=True)
class RequestEnd:
    """How a request ended for its reader. `first_at`: when the first delta arrived, on the clock `time.monotonic`."""

    error: LlmError | None
    usage: Usage | None
    lane: str
    model: str
    finish_reason: FinishReason | None
    first_at: float | None


class RequestSpan:
    """The span of a request, which ends once: a second call of a method that ends it has no effect.

    Args:
        reports_usage: whether the span reports the tokens.
    """

    def __init__(self, span: Span = trace.INVALID_SPAN, *, reports_usage: bool = True) -> None:
        self._span = span
        self._reports_usage = reports_usage
        self._started_at = time.monotonic()

    def end(self, end: RequestEnd) -> None:
        """End the span as the request ended."""
        if not self._span.is_recording():
            return
        usage, attributes = end.usage, dict[str, AttributeValue]()
        if end.lane:
            attributes |= {names.LANE: end.lane, names.RESPONSE_MODEL: end.model}
        if end.finish_reason is not None:
            attributes[names.FINISH_REASONS] = [end.finish_reason]
        if end.first_at is not None:
            attributes[names.TIME_TO_FIRST_CHUNK] = max(0.0, end.first_at - self._started_at)
        if usage is not None:
            attributes |= {names.ATTEMPTS: usage.attempts, names.QUEUE_MS: usage.queue_ms}
            if self._reports_usage:
                attributes |= token_counts(usage)
        self._end(end.error, attributes)

    def fail(self, error: BaseException) -> None:
        """End the span, since the request could not be sent."""
        self._end(RequestCancelled() if isinstance(error, asyncio.CancelledError) else error)

    def join(self) -> None:
        """End the span, since its request was not accepted: an earlier one has the same idempotency key."""
        self._span.set_attribute(names.OUTCOME, "joined")
        self._span.end()

    def _end(self, error: BaseException | None, attributes: Mapping[str, AttributeValue] = {}) -> None:
        if not self._span.is_recording():
            return
        outcome = _outcome(error)
        self._span.set_attributes({**attributes, names.OUTCOME: outcome})
        if error is not None and outcome != "cancelled":
            mark_failed(self._span, error.code if isinstance(error, LlmError) else type(error).__name__)
        self._span.end()


def _outcome(error: BaseException | None) -> str:
    match error:
        case None:
            return "completed"
        case RequestCancelled():
            return "cancelled"
        case DeadlineExceeded():
            return "expired"
        case _:
            return "failed"


def mark_failed(span: Span, code: str) -> None:
    """Mark the span as failed, with the code of the error. Its text may quote a prompt."""
    span.set_attribute(names.ERROR_TYPE, code)
    span.set_status(StatusCode.ERROR)


def token_counts(usage: Usage) -> dict[str, AttributeValue]:
    """The attributes with the tokens; none if the model server counted none."""
    if not (usage.prompt_tokens or usage.completion_tokens):
        return {}
    counts: dict[str, AttributeValue] = {
        names.INPUT_TOKENS: usage.prompt_tokens,
        names.OUTPUT_TOKENS: usage.completion_tokens,
    }
    if usage.cached_tokens:
        counts[names.CACHED_TOKENS] = usage.cached_tokens
    return counts


@contextmanager
def sending(envelope: Envelope) -> Iterator[tuple[Envelope, RequestSpan]]:
    """Start the span of a request, make it the current span during the block, and yield the envelope that carries its
    context. An exception in the block ends the span; otherwise the caller ends it."""
    if is_off():
        yield envelope, RequestSpan()
        return
    attributes: dict[str, AttributeValue] = {
        names.MESSAGING_SYSTEM: names.SYSTEM,
        names.MESSAGING_OPERATION: "send",
        names.MESSAGING_OPERATION_TYPE: "send",
        names.ROLE: envelope.role,
        names.REQUEST_ID: envelope.id,
        names.OPERATION: KINDS[envelope.kind].operation,
        names.PROVIDER: names.SYSTEM,
        names.AGENT: envelope.agent,
    }
    if envelope.priority != "normal":
        attributes[names.PRIORITY] = envelope.priority
    if envelope.needs.model is not None:
        attributes[names.REQUEST_MODEL] = envelope.needs.model
    if envelope.conversation is not None:
        attributes[names.CONVERSATION] = envelope.conversation
    span = tracer().start_span("llm.request", kind=SpanKind.PRODUCER, attributes=attributes)
    with _current(span, RequestSpan(span)) as request:
        yield envelope.model_copy(update={"trace": carry(span)}), request


@contextmanager
def attaching(request_id: str, position: int) -> Iterator[RequestSpan]:
    """Start the span of a client that attaches to a request at a position, as `sending` does. By the conventions, the
    tokens are reported only by the span of the request itself."""
    if is_off():
        yield RequestSpan()
        return
    attributes = {
        names.OPERATION: "fetch_response",
        names.PROVIDER: names.SYSTEM,
        names.RESPONSE_ID: request_id,
    }
    if position > 0:
        attributes[names.STREAM_CURSOR] = str(position - 1)
    span = tracer().start_span("fetch_response", kind=SpanKind.CLIENT, attributes=attributes)
    with _current(span, RequestSpan(span, reports_usage=False)) as request:
        yield request


@contextmanager
def _current(span: Span, request: RequestSpan) -> Iterator[RequestSpan]:
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield request
    except BaseException as error:
        request.fail(error)
        raise
