"""The spans of an attempt in its worker: `llm.attempt`, and the call of the model server.

Neither records exceptions, since their messages may quote a prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind
from opentelemetry.util.types import AttributeValue

from tokenlane.routing.contract.answers import FinishReason, Usage
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind

from . import conventions as names
from .request import mark_failed, token_counts
from .tracer import carried, is_off, span_context, tracer


def processing(envelope: Envelope, *, lane: str, worker: str, attempt: int, model: str) -> AbstractContextManager[Span]:
    """A span around one attempt on a lane: a child of the request's span, and linked to it."""
    if not envelope.trace and is_off():
        return nullcontext(trace.INVALID_SPAN)
    sender = span_context(envelope.trace)
    attributes: dict[str, AttributeValue] = {
        names.MESSAGING_SYSTEM: names.SYSTEM,
        names.MESSAGING_OPERATION: "process",
        names.MESSAGING_OPERATION_TYPE: "process",
        names.ROLE: envelope.role,
        names.REQUEST_ID: envelope.id,
        names.OPERATION: KINDS[envelope.kind].operation,
        names.REQUEST_MODEL: model,
        names.AGENT: envelope.agent,
        names.LANE: lane,
        names.WORKER: worker,
        names.ATTEMPT: attempt,
    }
    span = tracer().start_span(
        "llm.attempt",
        context=carried(envelope.trace),
        kind=SpanKind.CONSUMER,
        attributes=attributes,
        links=[Link(sender)] if sender.is_valid else [],
    )
    return trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)


def describe_attempt(span: Span, *, request_outcome: str, code: str, has_failed: bool, model: str) -> None:
    """Record on an attempt's span how the attempt ended.

    Args:
        request_outcome: the state in which the request ended, `requeued`, or `left` if another worker has it now.
        code: the code of the error, or why the attempt was stopped; empty for a complete answer.
        has_failed: whether `code` is the code of an error.
    """
    span.set_attributes({names.OUTCOME: request_outcome, names.RESPONSE_MODEL: model})
    if has_failed:
        mark_failed(span, code)
    elif code:
        span.set_attribute(names.STOPPED, code)


class ModelCall:
    """The span of a call of the model server, while the call runs."""

    def __init__(self, span: Span = trace.INVALID_SPAN) -> None:
        self._span = span
        self._started_at = asyncio.get_running_loop().time()

    def receive(self, finish_reason: FinishReason, usage: Usage | None, first_at: float | None) -> None:
        """Record a complete answer. `first_at`: when its first piece arrived, on the loop's clock."""
        if not self._span.is_recording():
            return
        attributes: dict[str, AttributeValue] = {names.FINISH_REASONS: [finish_reason]}
        if first_at is not None:
            attributes[names.TIME_TO_FIRST_CHUNK] = first_at - self._started_at
        self._span.set_attributes(attributes | ({} if usage is None else token_counts(usage)))


@contextmanager
def calling(kind: Kind, *, provider: str, endpoint: str, lane: str, model: str) -> Iterator[ModelCall]:
    """A span around a call of the model server, as a child of the attempt's span."""
    if not trace.get_current_span().is_recording():
        yield ModelCall()
        return
    operation = KINDS[kind].operation
    attributes: dict[str, AttributeValue] = {
        names.OPERATION: operation,
        names.PROVIDER: provider,
        names.REQUEST_MODEL: model,
        names.LANE: lane,
        **_address(endpoint),
    }
    if KINDS[kind].result is None:
        attributes[names.STREAM] = True
    span = tracer().start_span(f"{operation} {model}", kind=SpanKind.CLIENT, attributes=attributes)
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield ModelCall(span)
        except Exception as error:
            mark_failed(span, error.code if isinstance(error, LlmError) else type(error).__name__)
            if isinstance(error, LlmError) and error.http_status is not None:
                span.set_attribute(names.HTTP_STATUS, error.http_status)
            raise


def _address(endpoint: str) -> dict[str, AttributeValue]:
    """The address of an endpoint, without the user and password that it may hold."""
    url = urlsplit(endpoint)
    if url.scheme == "unix":
        return {names.SERVER_ADDRESS: url.path}
    if url.hostname is None:
        return {}
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return {names.SERVER_ADDRESS: url.hostname} | ({} if port is None else {names.SERVER_PORT: port})
