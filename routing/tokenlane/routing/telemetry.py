"""OpenTelemetry spans for requests, and the trace context in a request's envelope.

Prompts and output are never attributes. The names of attributes follow OpenTelemetry's messaging and GenAI conventions.
These may still change, so no other module uses the names.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from opentelemetry import propagate, trace
from opentelemetry.trace import Link, Span, SpanKind, Tracer

from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.kinds import KINDS

_SYSTEM = "tokenlane"


def tracer() -> Tracer:
    """The tracer of all components. It records nothing until an SDK is configured."""
    return trace.get_tracer("tokenlane")


def _untraced() -> bool:
    """Whether no SDK records spans and the caller has no span. Then no span is created, since even an unrecorded span
    takes time."""
    return isinstance(tracer(), trace.ProxyTracer) and trace.get_current_span() is trace.INVALID_SPAN


def sending(role: str, request_id: str) -> AbstractContextManager[Span]:
    """A span around the submission of a request. The request's envelope carries its context."""
    if _untraced():
        return nullcontext(trace.INVALID_SPAN)
    attributes = {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": role,
        "messaging.message.id": request_id,
    }
    span = tracer().start_span(f"send {role}", kind=SpanKind.PRODUCER, attributes=attributes)
    return trace.use_span(span, end_on_exit=True)


def inject(span: Span) -> dict[str, str]:
    """The W3C trace context of a span: `traceparent`, and `tracestate` if the span has it."""
    if span is trace.INVALID_SPAN:
        return {}
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=trace.set_span_in_context(span))
    return {name: value for name, value in carrier.items() if name in ("traceparent", "tracestate")}


def processing(envelope: Envelope, lane: str, attempt: int, model: str) -> AbstractContextManager[Span]:
    """A span around one attempt on a lane. It is a child of the sender's span, and linked to it. It records no
    exceptions, since their messages may quote a prompt."""
    if not envelope.trace and _untraced():
        return nullcontext(trace.INVALID_SPAN)
    parent = propagate.extract(envelope.trace)
    sender = trace.get_current_span(parent).get_span_context()
    attributes: dict[str, str | int] = {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": envelope.role,
        "messaging.message.id": envelope.id,
        "gen_ai.operation.name": KINDS[envelope.kind].operation,
        "gen_ai.request.model": model,
        "tokenlane.lane": lane,
        "tokenlane.attempt": attempt,
    }
    links = [Link(sender)] if sender.is_valid else []
    span = tracer().start_span(
        f"process {envelope.role}", context=parent, kind=SpanKind.CONSUMER, attributes=attributes, links=links
    )
    return trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)


def describe_attempt(
    span: Span,
    *,
    request_outcome: str,
    error: str,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
    first_token_ms: float | None,
) -> None:
    """Record on an attempt's span how the attempt ended.

    Args:
        request_outcome: the state in which the request ended, `requeued`, or `left` if another worker has it now.
        error: the error's code; empty if there was no error.
    """
    attributes: dict[str, str | int | float] = {
        "tokenlane.became": request_outcome,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": prompt_tokens,
        "gen_ai.usage.output_tokens": completion_tokens,
    }
    if error:
        attributes["error.type"] = error
    if first_token_ms is not None:
        attributes["tokenlane.first_token_ms"] = first_token_ms
    span.set_attributes(attributes)
