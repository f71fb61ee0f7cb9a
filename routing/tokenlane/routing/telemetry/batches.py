"""The spans of the published batches of an answer: `llm.token`."""

from __future__ import annotations

import time

from opentelemetry import trace
from opentelemetry.trace import Span

from tokenlane.config.settings.values import TokenSpans

from . import conventions as names
from .tracer import tracer

SAMPLED_OF = 1024
"""With `sampled`, one of so many traces has these spans."""


class BatchSpans:
    """Records each published batch of an attempt's deltas as a span below the attempt's span."""

    def __init__(self, attempt: Span) -> None:
        self._parent = trace.set_span_in_context(attempt)
        self._tracer = tracer()

    def record(self, first: int, last: int, since_ns: int) -> None:
        """Record a batch that is being published.

        Args:
            first: the position of its first delta.
            last: the position of its last delta.
            since_ns: when the model server sent the first delta, on the clock `time.time_ns`.
        """
        positions = {names.FIRST_POSITION: first, names.LAST_POSITION: last}
        self._tracer.start_span("llm.token", self._parent, attributes=positions, start_time=since_ns).end(
            time.time_ns()
        )


def batch_spans(attempt: Span, wanted: TokenSpans) -> BatchSpans | None:
    """The spans of an attempt's batches; None if this attempt has none. Every attempt of a request decides alike."""
    if wanted == "off" or not attempt.is_recording():
        return None
    if wanted == "sampled" and attempt.get_span_context().trace_id % SAMPLED_OF:
        return None
    return BatchSpans(attempt)
