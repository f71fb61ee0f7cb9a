"""Turns the end of each attempt into one event, for the log, the trace span and the worker's report."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import get_args

from opentelemetry.trace import Span

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.attempt_end import NotResumedReason, StopReason
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    EntryDeleted,
    HookFailed,
    Interrupted,
    LlmError,
    NoToolCall,
    PluginFailed,
    PoolKeyMismatch,
    RequestLost,
    SchemaMismatch,
)
from tokenlane.routing.contract.worker_report import AttemptsReport
from tokenlane.routing.store.request_life import Ending, RequestOutcome
from tokenlane.routing.support.tasks import InternalErrors
from tokenlane.routing.telemetry.attempt import describe_attempt
from tokenlane.worker.lane.running_attempts import AttemptEnded, Observer, Run

from .outcome import Answered, AttemptOutcome, NotResumed, code_of

logger = logging.getLogger(__name__)

_NOT_RESUMED = get_args(NotResumedReason)
_ENDINGS = get_args(Ending)
_FAULTS_OF_OTHERS = (
    LlmError,
    BadRequest,
    ContextTooLong,
    NoToolCall,
    SchemaMismatch,
    RequestLost,
    EntryDeleted,
    PoolKeyMismatch,
    Interrupted,
    HookFailed,
    PluginFailed,
)
_NOT_THE_SERVERS_FAULT = {*get_args(StopReason), *_NOT_RESUMED, *(error.code for error in _FAULTS_OF_OTHERS)}
"""Codes of attempts that ended without the model server having failed."""


def observe(lane: str, run: Run, outcome: AttemptOutcome, request_outcome: RequestOutcome) -> AttemptEnded:
    """Create the event for the end of an attempt."""
    return AttemptEnded(
        envelope=run.claim.envelope,
        attempt=run.attempt,
        lane=lane,
        model=run.outlet.model,
        request_outcome=request_outcome,
        code=code_of(outcome),
        why=outcome.message if isinstance(outcome, LlmError) else "",
        http_status=outcome.http_status if isinstance(outcome, LlmError) else None,
        waited_ms=run.claim.waited_ms,
        first_token_ms=None if run.outlet.first_put_at is None else run.elapsed_ms(run.outlet.first_put_at),
        usage=outcome.usage if isinstance(outcome, Answered) else Usage(total_ms=run.elapsed_ms()),
        starts=run.claim.starts,
        is_first=run.claim.is_first_start,
        is_continued=run.partial is not None and not isinstance(outcome, NotResumed),
        unsent_deltas=run.outlet.unsent,
    )


def emit(event: AttemptEnded, observers: tuple[Observer, ...], errors: InternalErrors) -> None:
    """Pass the event to all observers. An exception in one observer is logged and counted, and the others still run."""
    for observer in observers:
        try:
            observer(event)
        except Exception as error:
            errors.record("observer of attempts", error)


def log_attempt(event: AttemptEnded) -> None:
    """Log the end of an attempt: a failed attempt as a warning, and the end of the request as one line."""
    if not event.why and not logger.isEnabledFor(logging.INFO):
        return
    envelope, usage, ends = event.envelope, event.usage, event.request_outcome in _ENDINGS
    facts = _facts(event)
    if event.why:
        logger.warning(
            "lane %r: attempt %d of request %s (%s, role %r) failed with %s%s after %.0f ms; "
            "outcome of the request: %s; %s",
            *(event.lane, event.attempt, envelope.id, envelope.kind, envelope.role, event.code),
            "" if event.http_status is None else f" (HTTP {event.http_status})",
            *(usage.total_ms, event.request_outcome, event.why),
            extra={"facts": facts},
        )
    if ends or not event.why:
        first = "no token" if event.first_token_ms is None else f"first token after {event.first_token_ms:.0f} ms"
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        logger.info(
            "%s %s %s%s: %s, role %r, lane %r, model %r; attempts: %d, waited %.0f ms, %s, took %.0f ms; %s",
            *("request" if ends else "attempt for request", envelope.id, event.request_outcome),
            f" ({event.code})" if event.code not in ("", event.request_outcome) else "",
            *(envelope.kind, envelope.role, event.lane, event.model, event.starts, event.waited_ms, first),
            usage.total_ms,
            f"tokens: {prompt} prompt, {completion} completion" if prompt or completion else "tokens were not counted",
            extra={"facts": {**facts, "event": "request" if ends else "attempt"}},
        )


def _facts(event: AttemptEnded) -> dict[str, object]:
    """The event as fields of a log line."""
    return {
        "event": "attempt",
        "request_id": event.envelope.id,
        "attempt": event.attempt,
        "kind": event.envelope.kind,
        "role": event.envelope.role,
        "priority": event.envelope.priority,
        "lane": event.lane,
        "model": event.model,
        "attempts": event.starts,
        "outcome": event.request_outcome,
        "code": event.code,
        "http_status": event.http_status,
        "waited_ms": event.waited_ms,
        "first_token_ms": event.first_token_ms,
        "total_ms": event.usage.total_ms,
        "prompt_tokens": event.usage.prompt_tokens,
        "completion_tokens": event.usage.completion_tokens,
    }


def attempt_span(span: Span) -> Observer:
    """Return an observer that records the event on the attempt's span."""
    return lambda event: describe_attempt(
        span,
        request_outcome=event.request_outcome,
        code=event.code,
        has_failed=bool(event.why),
    )


class AttemptTotals:
    """Counts of ended attempts, for the worker's report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest_failure = ("", 0.0)
        self._ended: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._failing: Counter[str] = Counter()
        self._prompt_tokens = self._completion_tokens = 0
        self._continued = self._wasted_deltas = 0

    def count(self, event: AttemptEnded) -> None:
        """Count one ended attempt."""
        self._ended[f"{event.envelope.kind}:{event.request_outcome}"] += 1
        if event.code and event.code not in _NOT_RESUMED:  # an earlier attempt failed, perhaps on another lane
            self._errors[event.code] += 1
        if event.request_outcome == "completed":
            self._failing.clear()
            self._newest_failure = ("", 0.0)
        elif event.code and event.code not in _NOT_THE_SERVERS_FAULT:
            self._failing[event.code] += 1
            self._newest_failure = (event.code, self._clock())
        self._prompt_tokens += event.usage.prompt_tokens
        self._completion_tokens += event.usage.completion_tokens
        self._continued += event.is_continued
        if event.request_outcome in ("cancelled", "expired"):
            self._wasted_deltas += event.unsent_deltas

    def report(self) -> AttemptsReport:
        """The counts since the worker started."""
        failing_code, failed_at = self._newest_failure
        return AttemptsReport(
            ended=dict(self._ended),
            errors=dict(self._errors),
            failing=dict(self._failing),
            failing_code=failing_code,
            failing_ms=int(1000 * (self._clock() - failed_at)) if failing_code else 0,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            continued=self._continued,
            wasted_deltas=self._wasted_deltas,
        )
