from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.contract.worker_report import AttemptsReport
from tokenlane.worker.attempt.observe import AttemptTotals, log_attempt
from tokenlane.worker.lane.running_attempts import AttemptEnded

ENVELOPE = Envelope(id=new_id(), client="c", agent="a", role="r")


def event(request_outcome: str, code: str = "", tokens: int = 0) -> AttemptEnded:
    usage = Usage(prompt_tokens=2 * tokens, completion_tokens=tokens)
    return AttemptEnded(ENVELOPE, 1, "lane1", "m", request_outcome, code, "", None, 0, None, usage)


def test_totals_count_all_attempts() -> None:
    """Attempts are counted by kind of work and request outcome, failed ones also by code; tokens are added up."""
    totals = AttemptTotals(clock=lambda: 0.0)
    for it in (event("completed", tokens=5), event("completed", tokens=3), event("requeued", "rate_limited")):
        totals.count(it)
    assert totals.report() == AttemptsReport(
        ended={"chat:completed": 2, "chat:requeued": 1},
        errors={"rate_limited": 1},
        failing={"rate_limited": 1},
        failing_code="rate_limited",
        prompt_tokens=16,
        completion_tokens=8,
    )


def test_wasted_and_continued_answers() -> None:
    """Deltas are wasted if nobody wants the answer any more and nobody has received them; attempts that continue an
    answer are counted."""
    totals = AttemptTotals()
    for outcome in ("completed", "cancelled", "expired", "requeued"):
        totals.count(replace(event(outcome), unsent_deltas=5, is_continued=outcome == "completed"))
    assert (totals.report().wasted_deltas, totals.report().continued) == (10, 1)


def test_failures_in_a_row() -> None:
    """Failures of the model server count by code until an attempt completes; those of requests and stops do not."""
    totals = AttemptTotals()
    for it in (event("failed", "unauthorized"), event("requeued", "rate_limited"), event("failed", "unauthorized")):
        totals.count(it)
    assert totals.report().failing == {"unauthorized": 2, "rate_limited": 1}
    for it in (event("failed", "bad_request"), event("cancelled", "cancelled"), event("failed", "context_too_long")):
        totals.count(it)
    assert totals.report().failing == {"unauthorized": 2, "rate_limited": 1}
    totals.count(event("completed"))
    assert totals.report().failing == {}


def test_the_newest_failure_in_a_row() -> None:
    """The report has its code and its age, which grows until the next failure or the next completed attempt."""
    now = 0.0
    totals = AttemptTotals(clock=lambda: now)
    totals.count(event("failed", "unauthorized"))
    now = 2.5
    totals.count(event("failed", "bad_request"))
    assert (totals.report().failing_code, totals.report().failing_ms) == ("unauthorized", 2500)
    totals.count(event("requeued", "provider_down"))
    assert (totals.report().failing_code, totals.report().failing_ms) == ("provider_down", 0)
    totals.count(event("completed"))
    assert totals.report().failing_code == ""


def test_a_request_has_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Its end is one line at INFO with all facts; a failed attempt is a warning besides."""
    caplog.set_level(logging.INFO, "tokenlane")
    log_attempt(event("completed", tokens=3))
    log_attempt(replace(event("requeued", "provider_down"), why="The server is away."))
    log_attempt(replace(event("failed", "provider_down"), why="The server is away.", starts=2))
    log_attempt(event("left", "stale"))
    lines = [(record.levelname, record.__dict__["facts"]) for record in caplog.records]
    assert [(level, facts["event"], facts["outcome"]) for level, facts in lines] == [
        ("INFO", "request", "completed"),
        ("WARNING", "attempt", "requeued"),
        ("WARNING", "attempt", "failed"),
        ("INFO", "request", "failed"),
        ("INFO", "attempt", "left"),
    ]
    expected = {"request_id": ENVELOPE.id, "role": "r", "lane": "lane1", "model": "m", "attempts": 1}
    assert {key: lines[0][1][key] for key in expected} == expected
    assert all(ENVELOPE.id in record.getMessage() for record in caplog.records)
