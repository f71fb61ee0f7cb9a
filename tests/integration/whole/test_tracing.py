"""One request is one trace, across real processes that send their spans by OTLP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.collector import Collector, collector
from tests.integration.farm import Farm, farm

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import OK
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
    assert not {PROMPT, OUTPUT} & {mark for mark in (PROMPT, OUTPUT) if mark.encode() in spans.bytes}
