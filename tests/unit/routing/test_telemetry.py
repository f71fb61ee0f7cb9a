"""The spans of requests, as this process records them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags
from tests.traces import recorded_spans

from tokenlane.config.settings.values import TokenSpans
from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.attempt_end import WORKER_LOST
from tokenlane.routing.contract.envelope import Envelope, Needs
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError, ProviderDown, QueueFull, RequestCancelled
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.telemetry import conventions as names
from tokenlane.routing.telemetry.attempt import EarlierAttempt, Waited, calling, describe_attempt, processing
from tokenlane.routing.telemetry.batches import SAMPLED_OF, batch_spans
from tokenlane.routing.telemetry.commands import recorded
from tokenlane.routing.telemetry.request import RequestEnd, RequestSpan, attaching, sending

COMPLETE = RequestEnd(None, Usage(prompt_tokens=3, completion_tokens=5), "gpu0", "m", "stop", None)
PARENT = SpanContext(0xABC << 64 | SAMPLED_OF, 7, is_remote=True, trace_flags=TraceFlags(1))


def envelope(**fields: object) -> Envelope:
    return Envelope.model_validate({"id": new_id(), "client": "c", "agent": "a", "role": "planner", **fields})


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def begun(of: Envelope, waited: Waited) -> None:
    with processing(of, lane="gpu1", worker="w", attempt=9, model="m", waited=waited):
        pass


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans}


def test_the_conversation_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spans of the request and of its attempts name it, so that a backend can show a conversation as a whole."""
    spans = recorded_spans(monkeypatch)
    with sending(envelope(conversation="c-7")) as (sent, span):
        pass
    begun(sent, Waited())
    span.end(COMPLETE)
    found = by_name(spans.get_finished_spans())
    assert {name: attributes(ended).get(names.CONVERSATION) for name, ended in found.items()} == {
        "llm.request": "c-7",
        "llm.attempt": "c-7",
    }


async def test_nothing_is_created_without_a_provider() -> None:
    """Neither spans nor copies of the envelope, and requests carry no context."""
    of = envelope()
    with sending(of) as (sent, span):
        assert sent is of
        assert trace.get_current_span() is trace.INVALID_SPAN
    span.end(COMPLETE)
    with attaching(of.id, 3):
        assert trace.get_current_span() is trace.INVALID_SPAN
    with processing(of, lane="l", worker="w", attempt=1, model="m", waited=Waited()) as attempt:
        assert attempt is trace.INVALID_SPAN
        with calling("chat", provider="vllm", endpoint="http://h", model="m"):
            assert trace.get_current_span() is trace.INVALID_SPAN
    assert batch_spans(attempt, "all") is None


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (None, "completed", None),
        (RequestCancelled(), "cancelled", None),
        (DeadlineExceeded(), "expired", DeadlineExceeded.code),
        (ProviderDown("quotes a prompt"), "failed", ProviderDown.code),
    ],
)
def test_the_end_of_a_request(
    monkeypatch: pytest.MonkeyPatch, error: LlmError | None, outcome: str, code: str | None
) -> None:
    """The span ends once, with outcome, lane, tokens and the code of the error, but not its text."""
    spans = recorded_spans(monkeypatch)
    with sending(envelope(needs=Needs(model="m"))) as (_, span):
        pass
    span.end(RequestEnd(error, COMPLETE.usage, "gpu0", "m", "stop", None))
    span.end(COMPLETE)
    (ended,) = spans.get_finished_spans()
    found = attributes(ended)
    assert (found[names.OUTCOME], found.get(names.ERROR_TYPE)) == (outcome, code)
    assert (ended.status.status_code is StatusCode.ERROR) == (code is not None)
    assert (found[names.LANE], found[names.INPUT_TOKENS], found[names.OUTPUT_TOKENS]) == ("gpu0", 3, 5)
    assert "prompt" not in ended.to_json().replace("prompt_tokens", "")


@pytest.mark.parametrize(("error", "outcome"), [(QueueFull("full"), "failed"), (asyncio.CancelledError(), "cancelled")])
def test_a_request_that_is_not_accepted(monkeypatch: pytest.MonkeyPatch, error: BaseException, outcome: str) -> None:
    """Its span ends with the exception of the submission."""
    spans = recorded_spans(monkeypatch)
    kept: list[RequestSpan] = []

    def send() -> None:
        with sending(envelope()) as (_, span):
            kept.append(span)
            raise error

    with pytest.raises(type(error)):
        send()
    kept[0].end(COMPLETE)
    (ended,) = spans.get_finished_spans()
    assert attributes(ended)[names.OUTCOME] == outcome
    assert not ended.events


def test_an_attempt_is_a_child_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows how long the request waited for its start, and for how much of that a lane had been chosen."""
    spans = recorded_spans(monkeypatch)
    with sending(envelope()) as (sent, span):
        pass
    begun(sent, Waited(queued_ms=1000, dispatched_ms=200))
    span.end(COMPLETE)
    found = by_name(spans.get_finished_spans())
    request, attempt = found["llm.request"], found["llm.attempt"]
    assert request.context is not None
    assert attempt.parent is not None
    assert attempt.parent.span_id == request.context.span_id
    assert (attributes(attempt)[names.QUEUE_MS], attributes(attempt)[names.DISPATCHED_MS]) == (1000, 200)


def test_a_request_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """If its agent sent none, or nonsense, each attempt is a trace of its own, with a link to the one before."""
    for carrier in ({}, {"traceparent": "nonsense"}):
        spans = recorded_spans(monkeypatch)
        begun(envelope(trace=carrier), Waited(1000, 200, EarlierAttempt(8, "gpu0", "m", 3000, WORKER_LOST, "")))
        lost, attempt = spans.get_finished_spans()
        assert (lost.parent, attempt.parent) == (None, None)
        assert [link.context for link in attempt.links] == [lost.context]


@pytest.mark.parametrize(
    ("before", "linked", "recorded"),
    [
        (EarlierAttempt(8, "gpu0", "m", 3000, "provider_down", f"00-{0xABC:032x}-{5:016x}-01"), [5], 1),
        (EarlierAttempt(8, "gpu0", "m", 3000, "provider_down", ""), [], 1),
        (EarlierAttempt(8, "gpu0", "m", 3000, WORKER_LOST, ""), None, 2),
        (EarlierAttempt(8, "gpu0", "m", None, "not_started", ""), [], 1),
        (EarlierAttempt(8, "gpu0", "m", 3000, "provider_down", "nonsense"), [], 1),
    ],
)
def test_an_attempt_links_to_the_one_before(
    monkeypatch: pytest.MonkeyPatch, before: EarlierAttempt, linked: list[int] | None, recorded: int
) -> None:
    """If its worker was lost, the attempt before gets its span now. One that never started has none."""
    spans = recorded_spans(monkeypatch)
    begun(envelope(), Waited(1000, 200, before))
    attempts = [span for span in spans.get_finished_spans() if span.name == "llm.attempt"]
    assert len(attempts) == recorded
    links = [link.context.span_id for link in attempts[-1].links]
    if linked is None:
        lost = attempts[0]
        assert lost.context is not None
        assert lost.start_time is not None
        assert lost.end_time is not None
        assert (links, attributes(lost)[names.ERROR_TYPE]) == ([lost.context.span_id], WORKER_LOST)
        assert (lost.end_time - lost.start_time, attributes(lost)[names.LANE]) == (2 * 10**9, "gpu0")
    else:
        assert links == linked


@pytest.mark.parametrize(
    ("endpoint", "address", "port"),
    [
        ("http://user:secret@gpu:8000/x", "gpu", 8000),
        ("https://gpu", "gpu", 443),
        ("http://[::1]", "::1", 80),
        ("unix:///run/m.sock", "/run/m.sock", None),
        ("", None, None),
    ],
)
async def test_the_address_of_a_model_server(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, address: str | None, port: int | None
) -> None:
    """Host and port of the endpoint, and no password."""
    spans = recorded_spans(monkeypatch)
    with processing(envelope(), lane="l", worker="w", attempt=1, model="m", waited=Waited()):
        with calling("chat", provider="vllm", endpoint=endpoint, model="m"):
            pass
    call = by_name(spans.get_finished_spans())["chat m"]
    assert (attributes(call).get(names.SERVER_ADDRESS), attributes(call).get(names.SERVER_PORT)) == (address, port)
    assert "secret" not in call.to_json()


@pytest.mark.parametrize(("wanted", "trace_id", "records"), [
    ("off", SAMPLED_OF, False), ("all", 1, True), ("sampled", 1, False), ("sampled", SAMPLED_OF, True)
])  # fmt: skip
def test_the_sampling_of_batches(
    monkeypatch: pytest.MonkeyPatch, wanted: TokenSpans, trace_id: int, records: bool
) -> None:
    """The trace decides, so the attempts of a request have these spans all or none."""
    spans = recorded_spans(monkeypatch)
    parent = trace.set_span_in_context(
        NonRecordingSpan(SpanContext(trace_id, 7, is_remote=True, trace_flags=TraceFlags(1)))
    )
    attempt = trace.get_tracer_provider().get_tracer("t").start_span("llm.attempt", parent)
    batches = batch_spans(attempt, wanted)
    assert (batches is not None) == records
    if batches is not None:
        batches.record(3, 5, 1)
        (batch,) = spans.get_finished_spans()
        assert attributes(batch) == {names.FIRST_POSITION: 3, names.LAST_POSITION: 5}


async def test_the_attributes_of_each_kind_of_span_are_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span has no attribute that the documentation does not list for it, and the documentation lists no other."""
    spans = recorded_spans(monkeypatch)
    usage = Usage(prompt_tokens=3, completion_tokens=5, cached_tokens=2)
    failed = RequestEnd(ProviderDown(), usage, "gpu0", "m", "stop", 1.0)
    with sending(envelope(needs=Needs(model="m"), priority="high", conversation="c-7")) as (sent, request):
        pass
    request.end(failed)
    with attaching(sent.id, 3) as fetched:
        pass
    fetched.end(failed)
    lost = EarlierAttempt(8, "gpu0", "m", 3000, WORKER_LOST, "")
    with processing(sent, lane="gpu1", worker="w", attempt=9, model="m", waited=Waited(1000, 200, lost)) as attempt:
        with calling("chat", provider="vllm", endpoint="http://gpu:8000", model="m") as call:
            call.receive("stop", usage, 1.0)
        with pytest.raises(ProviderDown), calling("chat", provider="vllm", endpoint="", model="m"):
            raise refused_with(503)
        with pytest.raises(ProviderDown):
            await recorded("finish", failing())
        batches = batch_spans(attempt, "all")
        assert batches is not None
        batches.record(3, 5, 1)
        describe_attempt(attempt, request_outcome="requeued", code="draining", has_failed=False)

    found: defaultdict[str, set[str]] = defaultdict(set)
    for span in spans.get_finished_spans():
        name = {"chat m": "model call", "EVALSHA finish": "Redis script"}.get(span.name, span.name)
        found[name] |= attributes(span).keys()
        found["links"] |= {name for link in span.links for name in link.attributes or ()}
    listed = {kind for row in names.TABLE.values() for kind in row.spans}
    assert found == {kind: {name for name, row in names.TABLE.items() if kind in row.spans} for kind in listed}


def refused_with(status: int) -> ProviderDown:
    """The error of a model server that answered with this HTTP status."""
    error = ProviderDown()
    error.http_status = status
    return error


async def failing() -> None:
    """The reply of a script that failed."""
    raise ProviderDown
