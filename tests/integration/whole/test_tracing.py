"""One request is one trace, across real processes that send their spans by OTLP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.collector import Collector, collector
from tests.integration.farm import Farm, farm
from tests.traces import recorded_spans
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import OK
from tokenlane.producer import BadRequest, Client, ProviderDown
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.telemetry import conventions as names

PROMPT, OUTPUT = "marked-prompt", "marked-output"


@pytest.fixture
async def spans() -> AsyncIterator[Collector]:
    async with collector() as opened:
        yield opened


@pytest.fixture
async def opened(redis_url: str, pool: Pool, tmp_path: Path) -> AsyncIterator[Farm]:
    await pool.policies.write(Policy(max_starts=2))
    async with farm(tmp_path, redis_url) as opened:
        yield opened


async def test_a_request_is_one_trace(opened: Farm, spans: Collector) -> None:
    """The spans of the verbs `chat` and `worker` form one tree, without a word of the prompt or the answer."""
    async with Simulator(faults=[FaultScript(pieces=(OUTPUT, " and ", OUTPUT))]) as server:
        await opened.worker("gpu0", server, **spans.environment)
        chat = await opened.tokenlane("chat", PROMPT, "--role", "planner", **spans.environment)
        assert (await chat.ended()).code == OK
        request, attempt = await spans.one("llm.request"), await spans.one("llm.attempt")
        call = await spans.one("chat sim")
        header = server.log[-1].headers["traceparent"]
    assert (request.service, attempt.service, call.service) == (
        "tokenlane-chat",
        "tokenlane-worker",
        "tokenlane-worker",
    )
    assert {span.trace_id for span in (request, attempt, call)} == {request.trace_id}
    assert (request.parent, attempt.parent, call.parent) == ("", request.id, attempt.id)
    assert header.split("-")[1:3] == [call.trace_id, call.id]
    assert not any(span.has_failed for span in (request, attempt, call))
    assert request.attributes[names.OUTCOME] == attempt.attributes[names.OUTCOME] == "completed"
    assert request.attributes[names.LANE] == attempt.attributes[names.LANE] == "gpu0"
    assert request.attributes[names.OUTPUT_TOKENS] == call.attributes[names.OUTPUT_TOKENS]
    assert request.started_ns <= attempt.started_ns <= call.started_ns
    assert call.ended_ns <= attempt.ended_ns
    for span in (request, call):
        seconds = span.attributes[names.TIME_TO_FIRST_CHUNK]
        assert isinstance(seconds, float)
        assert 0 < seconds < 20
    assert PROMPT.encode() not in spans.bytes
    assert OUTPUT.encode() not in spans.bytes


async def test_an_attempt_links_to_the_one_before(opened: Farm, spans: Collector) -> None:
    """An attempt that failed and its successor are both children of the request, which did not fail."""
    async with Simulator(faults=[FaultScript(status=503, error={"message": f"no {PROMPT}"})]) as server:
        await opened.worker("gpu0", server, **spans.environment)
        chat = await opened.tokenlane("chat", PROMPT, "--role", "planner", **spans.environment)
        assert (await chat.ended()).code == OK
    request, (failed, attempt) = await spans.one("llm.request"), await spans.named("llm.attempt", 2)
    refused, answered = await spans.named("chat sim", 2)
    assert (failed.links, attempt.links) == ((), (failed.id,))
    assert (failed.parent, attempt.parent, refused.parent, answered.parent) == (
        *(request.id, request.id, failed.id, attempt.id),
    )
    assert [span.has_failed for span in (failed, refused, request, attempt, answered)] == [True] * 2 + [False] * 3
    assert failed.attributes[names.ERROR_TYPE] == refused.attributes[names.ERROR_TYPE] == ProviderDown.code
    assert refused.attributes[names.HTTP_STATUS] == 503
    assert (failed.attributes[names.OUTCOME], request.attributes[names.ATTEMPTS]) == ("requeued", 2)
    assert PROMPT.encode() not in spans.bytes


async def test_a_request_that_fails(opened: Farm, spans: Collector) -> None:
    """Its spans have the error's code and nothing of its text, which quotes the prompt."""
    async with Simulator(faults=[FaultScript(status=400, error={"message": f"bad: {PROMPT}"})]) as server:
        await opened.worker("gpu0", server, **spans.environment)
        chat = await opened.tokenlane("chat", PROMPT, "--role", "planner", **spans.environment)
        assert (await chat.ended()).code != OK
    failed = [await spans.one(name) for name in ("llm.request", "llm.attempt", "chat sim")]
    assert all(span.has_failed for span in failed)
    assert {span.attributes[names.ERROR_TYPE] for span in failed} == {BadRequest.code}
    assert {span.attributes[names.OUTCOME] for span in failed[:2]} == {"failed"}
    assert PROMPT.encode() not in spans.bytes


async def test_the_spans_of_an_agent_that_cancels_and_one_that_attaches(
    opened: Farm, spans: Collector, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reader has a span, which ends with its stream. A cancelled request has not failed."""
    own = recorded_spans(monkeypatch)
    async with Simulator(faults=[FaultScript(hold_after=3)]) as server, Client(redis_url) as client:
        await opened.worker("gpu0", server, **spans.environment)
        async with client.chat(PROMPT, role="planner") as stream:
            deltas = [await anext(stream) for _ in range(3)]
            async with client.attach(stream.request_id, after=deltas[0].position) as attached:
                assert (await anext(attached)).position == 1
                await stream.cancel()
        await until(lambda: len(own.get_finished_spans()) == 2)
        attempt = await spans.one("llm.attempt")
    by_name = {span.name: span for span in own.get_finished_spans()}
    request, fetched = by_name["llm.request"], by_name["fetch_response"]
    for span in (request, fetched):
        assert span.attributes is not None
        assert (span.status.is_ok, span.attributes[names.OUTCOME]) == (True, "cancelled")
        assert names.ERROR_TYPE not in span.attributes
        assert PROMPT not in span.to_json()
    assert fetched.attributes is not None
    assert fetched.attributes[names.OPERATION] == "fetch_response"
    assert (fetched.attributes[names.RESPONSE_ID], fetched.attributes[names.STREAM_CURSOR]) == (stream.request_id, "0")
    assert (attempt.has_failed, attempt.attributes[names.STOPPED]) == (False, "cancelled")
    assert request.context is not None
    assert attempt.parent == f"{request.context.span_id:016x}"


@pytest.mark.parametrize(("tokens", "has_spans"), [("all", True), ("off", False)])
async def test_the_published_batches_of_an_answer(opened: Farm, spans: Collector, tokens: str, has_spans: bool) -> None:
    """If wanted, each batch has a span below the attempt. Together they cover every position once."""
    async with Simulator(itl_ms=10) as server:
        await opened.worker("gpu0", server, TOKENLANE_TELEMETRY__TOKENS=tokens, **spans.environment)
        chat = await opened.tokenlane("chat", PROMPT, "--role", "planner", **spans.environment)
        assert (await chat.ended()).code == OK
        attempt = await spans.one("llm.attempt")
        await until(lambda: spans.received > 1)
    batches = sorted(
        (span for span in spans.spans if span.name == "llm.token"),
        key=lambda span: int(str(span.attributes[names.FIRST_POSITION])),
    )
    assert bool(batches) == has_spans
    assert {span.parent for span in batches} <= {attempt.id}
    positions = [
        position
        for span in batches
        for position in range(
            int(str(span.attributes[names.FIRST_POSITION])), int(str(span.attributes[names.LAST_POSITION])) + 1
        )
    ]
    assert positions == [*range(len(positions))]
    assert len(positions) >= 16 * has_spans


async def test_the_redis_commands_of_a_request(opened: Farm, spans: Collector) -> None:
    """If wanted, scripts that run for a request are below its spans. Beats, sweeps and the publishes of deltas have no
    span, and no span has an argument of a script."""
    wanted = {"TOKENLANE_TELEMETRY__REDIS": "true", "TOKENLANE_TELEMETRY__TOKENS": "off", **spans.environment}
    async with Simulator(itl_ms=10, faults=[FaultScript(pieces=(OUTPUT, " and ", OUTPUT))]) as server:
        await opened.worker("gpu0", server, **wanted)
        chat = await opened.tokenlane("chat", PROMPT, "--role", "planner", **wanted)
        assert (await chat.ended()).code == OK
        request, attempt = await spans.one("llm.request"), await spans.one("llm.attempt")
    commands = [span for span in spans.spans if not span.name.startswith(("llm.", "chat "))]
    assert {(span.service, span.parent, span.attributes[names.DB_PROCEDURE]) for span in commands} == {
        ("tokenlane-chat", request.id, "submit"),
        ("tokenlane-worker", attempt.id, "finish"),
    }
    assert PROMPT.encode() not in spans.bytes
    assert OUTPUT.encode() not in spans.bytes
