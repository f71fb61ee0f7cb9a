"""The tracer of all components, and the trace context that travels with each request.

An agent's process uses the tracer provider that the agent has set. Where nobody has set one, no span is created.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .conventions import SCHEMA_URL

_W3C = TraceContextTextMapPropagator()
"""The envelope's format, whatever propagators the process uses for HTTP."""


def tracer() -> Tracer:
    """The tracer of all components."""
    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("tokenlane", version("tokenlane"), schema_url=SCHEMA_URL)


def is_off() -> bool:
    """Whether no SDK records spans and the caller has no span. Then no span is created, since even an unrecorded span
    takes time."""
    unset = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return unset and trace.get_current_span() is trace.INVALID_SPAN


def carry(span: Span) -> dict[str, str]:
    """The W3C trace context of a span: `traceparent`, and `tracestate` if the span has it."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, context=trace.set_span_in_context(span))
    return carrier


def carried(carrier: Mapping[str, str]) -> Context:
    """The context that `carry` returned, as the parent of spans in this process."""
    return _W3C.extract(carrier, context=Context())


def span_context(carrier: Mapping[str, str]) -> SpanContext:
    """The context that `carry` returned, for links; an invalid one if the carrier has none."""
    return trace.get_current_span(carried(carrier)).get_span_context()
