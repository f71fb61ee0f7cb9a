"""What a worker measures of its attempts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.wire import Kind, new_id
from tokenlane.routing.store.replies.claim import ClaimedAttempt
from tokenlane.routing.telemetry.attempt import EarlierAttempt, Waited
from tokenlane.routing.watch.metrics.samples import Histogram
from tokenlane.routing.watch.metrics.table import BY_NAME, METRICS
from tokenlane.worker.attempt.measure import AttemptTimes
from tokenlane.worker.lane.running_attempts import AttemptEnded

LABELS = ("gpu0", "chat", "vllm", "m")


def ended(kind: Kind = "chat") -> AttemptEnded:
    """A completed chat: 2 s in the queue, 0.5 s to the first of 11 tokens, 1.5 s in all."""
    envelope = Envelope(id=new_id(), client="c", agent="a", role="coder", kind=kind)
    usage = Usage(prompt_tokens=7, completion_tokens=11, total_ms=1_500)
    return AttemptEnded(envelope, 1, "gpu0", "m", "completed", "", "", None, 2_000, 500, usage)


def measured(*events: AttemptEnded) -> dict[tuple[str, ...], tuple[int, float]]:
    """How many values each histogram has, and their sum, by name and labels."""
    times = AttemptTimes(LaneSettings("gpu0", "vllm"))
    for event in events:
        times.observe(event)
    found = {}
    for name, labels, histogram in times.samples(Histogram((1,))):
        assert isinstance(histogram, Histogram)
        assert len(labels) == len(BY_NAME[name].labels), name
        found[name, *labels] = (histogram.count, round(histogram.sum, 6))
    return found


def test_a_completed_chat() -> None:
    """Each metric that workers measure has a value, in seconds and tokens."""
    found = measured(ended())
    assert found == {
        ("tokenlane_queue_wait_seconds", "coder", "normal"): (1, 2),
        ("gen_ai_client_operation_time_to_first_chunk_seconds", *LABELS): (1, 0.5),
        ("tokenlane_time_per_output_token_seconds", *LABELS): (1, 0.1),
        ("gen_ai_client_operation_duration_seconds", *LABELS, ""): (1, 1.5),
        ("gen_ai_client_token_usage", *LABELS, "input"): (1, 7),
        ("gen_ai_client_token_usage", *LABELS, "output"): (1, 11),
        ("tokenlane_delivery_interval_seconds", "gpu0"): (0, 0),
    }
    assert {name for name, *_ in found} == {metric.name for metric in METRICS if metric.source == "worker"}


def test_an_attempt_that_failed_before_its_first_token() -> None:
    """It has a duration, under its error code, and no time to a token."""
    failed = replace(ended(), code="provider_down", first_token_ms=None, usage=Usage(total_ms=250))
    found = measured(failed)
    assert found["gen_ai_client_operation_duration_seconds", *LABELS, "provider_down"] == (1, 0.25)
    assert {name for name, *_ in found} == {
        "tokenlane_queue_wait_seconds",
        "gen_ai_client_operation_duration_seconds",
        "tokenlane_delivery_interval_seconds",
    }


def test_a_continued_answer() -> None:
    """Its wait and its tokens are those of several attempts, so it tells nothing about the time per token."""
    found = measured(replace(ended(), starts=2, is_first=False, is_continued=True))
    names = {name for name, *_ in found}
    assert "tokenlane_queue_wait_seconds" not in names
    assert "tokenlane_time_per_output_token_seconds" not in names
    assert "gen_ai_client_operation_time_to_first_chunk_seconds" in names


def test_a_request_that_was_refused_before_waits_once() -> None:
    """A refusal costs no start, so the next attempt is a first start again, but not the first attempt."""
    found = measured(replace(ended(), code="rate_limited"), replace(ended(), is_first=False))
    assert found["tokenlane_queue_wait_seconds", "coder", "normal"] == (1, 2)


@pytest.mark.parametrize(
    ("starts", "started_ms", "is_first"), [(1, None, True), (1, 300, False), (2, None, False), (2, 300, False)]
)
def test_the_first_start_is_the_end_of_the_wait(starts: int, started_ms: int | None, is_first: bool) -> None:
    """An attempt that no worker started was no end of the wait."""
    envelope = Envelope(id=new_id(), client="c", agent="a", role="coder")
    waited = Waited(before=EarlierAttempt(1, "gpu0", "m", started_ms, "rate_limited", ""))
    claim = ClaimedAttempt(2, envelope, b"", "m", starts, 60_000, 12, False, Needs(), waited)
    assert claim.is_first_start == is_first
    assert replace(claim, waited=Waited(), starts=1).is_first_start


def test_commands_for_models_are_not_measured() -> None:
    """A pull may take hours, and would hide the durations of chats."""
    assert {name for name, *_ in measured(ended("command"))} == {
        "tokenlane_queue_wait_seconds",
        "tokenlane_delivery_interval_seconds",
    }
