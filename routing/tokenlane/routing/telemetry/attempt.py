"""The spans of an attempt in its worker: `llm.attempt`, and the call of the model server.

Neither records exceptions, since their messages may quote a prompt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind
from opentelemetry.util.types import AttributeValue

from tokenlane.routing.contract.answers import FinishReason, Usage
from tokenlane.routing.contract.attempt_end import WORKER_LOST
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind

from . import conventions as names
from .request import mark_failed, token_counts
from .tracer import carried, carry, is_off, span_context, tracer


@dataclass(frozen=True)
class EarlierAttempt:
    """The attempt before the one that starts now.

    `started_ms`: ms since its start; None if no worker started it. `code`: why it ended. `span`: the trace context of
    its span, from its worker; '' if that worker records no spans, or is lost.
    """

    attempt: int
    lane: str
    model: str
    started_ms: int | None
    code: str
    span: str


@dataclass(frozen=True)
class Waited:
    """How a request waited before the attempt that starts now.

    `queued_ms`: since the submission or the end of the attempt before. `dispatched_ms`: since it was given to the lane.
    """

    queued_ms: int = 0
    dispatched_ms: int = 0
    before: EarlierAttempt | None = None


def processing(
    envelope: Envelope, *, lane: str, worker: str, attempt: int, model: str, waited: Waited
) -> AbstractContextManager[Span]:
    """A span around one attempt on a lane: a child of the request's span, and linked to the attempt before.

    An attempt whose worker was lost, and with it its span, gets a span now. If the agent sent no trace context, each
    attempt is a trace of its own.
    """
    if not envelope.trace and is_off():
        return nullcontext(trace.INVALID_SPAN)
    begun = _Attempt(envelope, carried(envelope.trace), time.time_ns())
    links = [] if waited.before is None else begun.links_to(waited.before, ended_ms=waited.queued_ms)
    more: dict[str, AttributeValue] = {
        names.WORKER: worker,
        names.QUEUE_MS: waited.queued_ms,
        names.DISPATCHED_MS: waited.dispatched_ms,
    }
    span = begun.start(lane, attempt, model, more, links)
    return trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False)


@dataclass(frozen=True)
class _Attempt:
    """Creates the spans with which an attempt begins at `now_ns`. `parent`: the context of their parent."""

    envelope: Envelope
    parent: Context
    now_ns: int

    def start(
        self,
        lane: str,
        attempt: int,
        model: str,
        more: Mapping[str, AttributeValue] = {},
        links: Sequence[Link] = (),
        *,
        since_ms: int = 0,
    ) -> Span:
        """Start the span of an attempt that began so many ms ago. `more`: attributes that only its own worker knows."""
        attributes: dict[str, AttributeValue] = {
            names.MESSAGING_SYSTEM: names.SYSTEM,
            names.MESSAGING_OPERATION: "process",
            names.MESSAGING_OPERATION_TYPE: "process",
            names.ROLE: self.envelope.role,
            names.REQUEST_ID: self.envelope.id,
            names.REQUEST_MODEL: model,
            names.LANE: lane,
            names.ATTEMPT: attempt,
            **more,
        }
        if self.envelope.conversation is not None:
            attributes[names.CONVERSATION] = self.envelope.conversation
        return tracer().start_span(
            "llm.attempt", self.parent, SpanKind.CONSUMER, attributes, links, start_time=self._ago(since_ms)
        )

    def links_to(self, before: EarlierAttempt, *, ended_ms: int) -> list[Link]:
        """The link to the attempt before, if it started. If its worker was lost, its span is recorded here instead."""
        context = span_context({"traceparent": before.span}) if before.span else trace.INVALID_SPAN_CONTEXT
        if before.code == WORKER_LOST and before.started_ms is not None:
            span = self.start(before.lane, before.attempt, before.model, since_ms=before.started_ms)
            describe_attempt(span, request_outcome="requeued", code=WORKER_LOST, has_failed=True)
            span.end(self._ago(ended_ms))
            context = span.get_span_context()
        return [Link(context, {names.ATTEMPT: before.attempt})] if context.is_valid else []

    def _ago(self, ms: int) -> int:
        return self.now_ns - 1_000_000 * ms


def current_span() -> str:
    """The trace context of the current attempt's span, for the attempt after it; '' if it is not recorded."""
    span = trace.get_current_span()
    return carry(span)["traceparent"] if span.is_recording() else ""


def describe_attempt(span: Span, *, request_outcome: str, code: str, has_failed: bool) -> None:
    """Record on an attempt's span how the attempt ended.

    Args:
        request_outcome: the state in which the request ended, `requeued`, or `left` if another worker has it now.
        code: the code of the error, or why the attempt was stopped; empty for a complete answer.
        has_failed: whether `code` is the code of an error.
    """
    span.set_attribute(names.OUTCOME, request_outcome)
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
def calling(kind: Kind, *, provider: str, endpoint: str, model: str) -> Iterator[ModelCall]:
    """A span around a call of the model server, as a child of the attempt's span."""
    if not trace.get_current_span().is_recording():
        yield ModelCall()
        return
    operation = KINDS[kind].operation
    attributes: dict[str, AttributeValue] = {
        names.OPERATION: operation,
        names.PROVIDER: provider,
        names.REQUEST_MODEL: model,
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


@cache
def _address(endpoint: str) -> dict[str, AttributeValue]:
    """The address of an endpoint, without the user and password that it may hold."""
    url = urlsplit(endpoint)
    if url.scheme == "unix":
        return {names.SERVER_ADDRESS: url.path}
    if url.hostname is None:
        return {}
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return {names.SERVER_ADDRESS: url.hostname} | ({} if port is None else {names.SERVER_PORT: port})
