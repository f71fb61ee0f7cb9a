"""Makes one event of each attempt's end, for the log, the trace span and the worker's report."""

from __future__ import annotations

import logging
from collections import Counter

from opentelemetry.trace import Span

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.worker_report import AttemptsReport
from tokenlane.routing.support.tasks import InternalErrors
from tokenlane.routing.telemetry import describe_attempt
from tokenlane.worker.lane.running_attempts import AttemptEnded, Observer, Run, Stopped

from .outcome import Answered, Outcome, RequestOutcome

logger = logging.getLogger(__name__)


def observe(lane: str, run: Run, outcome: Outcome, request_outcome: RequestOutcome) -> AttemptEnded:
    """The event of an attempt's end."""
    return AttemptEnded(
        envelope=run.started.envelope,
        attempt=run.attempt,
        lane=lane,
        model=run.outlet.model,
        request_outcome=request_outcome,
        code=outcome.code if isinstance(outcome, LlmError) else outcome.reason if isinstance(outcome, Stopped) else "",
        why=str(outcome) if isinstance(outcome, LlmError) else "",
        waited_ms=run.started.waited_ms,
        first_token_ms=None if run.outlet.first_put_at is None else run.elapsed_ms(run.outlet.first_put_at),
        usage=outcome.usage if isinstance(outcome, Answered) else Usage(total_ms=run.elapsed_ms()),
    )


def emit(event: AttemptEnded, observers: tuple[Observer, ...], errors: InternalErrors) -> None:
    """Call all observers with the event. A bug in an observer is logged and counted, and affects no other observer."""
    for observer in observers:
        try:
            observer(event)
        except Exception as error:
            errors.record("observation of an attempt", error)


def log_attempt(event: AttemptEnded) -> None:
    """Log the attempt's end."""
    envelope, usage = event.envelope, event.usage
    first = "no token" if event.first_token_ms is None else f"first token after {event.first_token_ms:.0f} ms"
    logger.info(
        "attempt %d of %s, %s for %s on %s: %s%s; waited %.0f ms, %s, %.0f ms in all, tokens %d in, %d out",
        *(event.attempt, envelope.id, envelope.kind, envelope.role, event.lane, event.request_outcome),
        f" ({event.code}{': ' if event.why else ''}{event.why})" if event.code else "",
        *(event.waited_ms, first, usage.total_ms, usage.prompt_tokens, usage.completion_tokens),
    )


def attempt_span(span: Span) -> Observer:
    """An observer that puts the event into the attempt's span."""
    return lambda event: describe_attempt(
        span,
        request_outcome=event.request_outcome,
        error=event.code,
        model=event.model,
        prompt_tokens=event.usage.prompt_tokens,
        completion_tokens=event.usage.completion_tokens,
        first_token_ms=event.first_token_ms,
    )


class AttemptTotals:
    """Counts the attempts that ended, for the worker's report."""

    def __init__(self) -> None:
        self._ended: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._prompt_tokens = self._completion_tokens = 0

    def count(self, event: AttemptEnded) -> None:
        """Count an attempt."""
        self._ended[f"{event.envelope.kind}:{event.request_outcome}"] += 1
        if event.code and event.code != "broken_off":  # an earlier attempt broke off, on this lane or another
            self._errors[event.code] += 1
        self._prompt_tokens += event.usage.prompt_tokens
        self._completion_tokens += event.usage.completion_tokens

    def report(self) -> AttemptsReport:
        """All counts so far."""
        return AttemptsReport(
            ended=dict(self._ended),
            errors=dict(self._errors),
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
        )
