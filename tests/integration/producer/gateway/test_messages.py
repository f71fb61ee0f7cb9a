"""Messages with Anthropic's own SDK, in front of a pool with a lane whose model server is simulated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import ToolUseBlock
from pydantic import BaseModel
from tests.documents import examples_of, run_example
from tests.gateways import events_of, gateway_of
from tests.integration.clients import quick_client
from tests.integration.farm import eventually
from tests.integration.lanes import lane_of
from tests.integration.life import ENDED, audit, raw

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool

LOOK: Any = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
QUESTION: Any = {"model": "sim", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
WORDS = "w0 w1 w2 w3 w4 w5 "


def sdk(url: str) -> AsyncAnthropic:
    """The client, which tries nothing twice."""
    return AsyncAnthropic(base_url=url, api_key="none", max_retries=0)


@asynccontextmanager
async def served(redis_url: str, **simulated: Any) -> AsyncIterator[str]:
    """A gateway in front of a lane; its URL."""
    async with (
        Simulator(api="vllm", **{"tokens": 6, **simulated}) as simulator,
        lane_of(redis_url, LaneSettings("gpu0", "vllm", simulator.url, capacity=4)),
        quick_client(redis_url, agent="gateway") as client,
        gateway_of(client) as url,
    ):
        yield url


@pytest.fixture
async def url(redis_url: str) -> AsyncIterator[str]:
    async with served(redis_url) as url:
        yield url


async def all_ended(pool: Pool) -> bool:
    """Whether nothing is queued or running."""
    return set((await audit(raw(pool))).values()) <= set(ENDED)


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def test_streamed_or_whole_the_answer_is_the_same(url: str) -> None:
    async with sdk(url) as asks:
        whole = await asks.messages.create(**QUESTION)
        async with asks.messages.stream(**QUESTION) as stream:
            streamed = await stream.get_final_message()
    assert text_of(whole) == text_of(streamed) == WORDS
    assert (whole.stop_reason, streamed.stop_reason, whole.model) == ("end_turn", "end_turn", "sim")
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 6
    assert whole.usage.input_tokens > 0


async def test_the_sdk_without_asyncio(url: str) -> None:
    def ask() -> tuple[str, str]:
        with Anthropic(base_url=url, api_key="none", max_retries=0) as asks:
            whole = asks.messages.create(**QUESTION)
            with asks.messages.stream(**QUESTION) as stream:
                return text_of(whole), "".join(stream.text_stream)

    assert await asyncio.to_thread(ask) == (WORDS, WORDS)


async def test_tools_and_schemas(url: str) -> None:
    """A tool call comes in pieces or as a whole, its result goes back; a schema is parsed by the SDK."""

    class Place(BaseModel):
        name: str

    more: Any = {"tools": [LOOK], "tool_choice": {"type": "any"}}
    async with sdk(url) as asks:
        async with asks.messages.stream(**QUESTION, **more) as stream:
            streamed = await stream.get_final_message()
        for message in (await asks.messages.create(**QUESTION, **more), streamed):
            assert message.stop_reason == "tool_use"
            calls = [block for block in message.content if isinstance(block, ToolUseBlock)]
            (call,) = calls
            assert (call.name, type(call.input)) == ("look", dict)
            result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "a house"}
            history = [*QUESTION["messages"], message.to_param(), {"role": "user", "content": [result]}]
            again = await asks.messages.create(**{**QUESTION, "messages": history}, tools=[LOOK])
            assert again.stop_reason == "end_turn"
        parsed = await asks.messages.parse(**QUESTION, output_format=Place)
    assert isinstance(parsed.parsed_output, Place)


async def test_limits_end_an_answer(url: str) -> None:
    """`max_tokens` and a stop sequence; which of the latter matched, no model server says."""
    async with sdk(url) as asks:
        cut = await asks.messages.create(**{**QUESTION, "max_tokens": 2})
        stopped = await asks.messages.create(**QUESTION, stop_sequences=["w3"])
    assert (text_of(cut), cut.stop_reason) == ("w0 w1 ", "max_tokens")
    assert (text_of(stopped), stopped.stop_reason, stopped.stop_sequence) == ("w0 w1 w2 ", "end_turn", None)


async def test_errors_of_the_pool_are_exceptions_of_the_sdk(url: str) -> None:
    async with sdk(url) as asks:
        with pytest.raises(anthropic.NotFoundError) as missing:
            await asks.messages.create(**{**QUESTION, "model": "unheard-of"})
        assert (missing.value.type, missing.value.error_code) == ("not_found_error", "model_not_found")
        with pytest.raises(anthropic.NotFoundError) as unknown:
            await asks.models.retrieve("unheard/of")
        assert unknown.value.type == "not_found_error"
        assert "sim" in [model.id async for model in asks.models.list()]


async def test_the_example_of_the_docs(redis_url: str, pool: Pool) -> None:
    """It runs as it is written; only the URL is the test's."""
    await pool.policies.write(Policy(roles={"planner": RolePolicy()}))
    (code,) = examples_of("anthropic")["Use it"]
    async with served(redis_url) as url:
        assert "http://127.0.0.1:4000" in code
        names = await run_example(code.replace("http://127.0.0.1:4000", url))
    assert text_of(names["message"]) == WORDS


async def test_a_client_may_leave_at_every_event(redis_url: str, pool: Pool) -> None:
    """Before the first event and after each: nothing stays queued or running."""
    body = {**QUESTION, "stream": True}
    async with served(redis_url, itl_ms=1) as url, httpx.AsyncClient(timeout=30) as web:
        events = len(events_of((await web.post(f"{url}/v1/messages", json=body)).content))
        assert events > 8
        for leaves_after in range(events + 1):
            async with (
                httpx.AsyncClient(timeout=30) as leaver,
                leaver.stream("POST", f"{url}/v1/messages", json=body) as response,
            ):
                lines = response.aiter_lines()
                seen = 0
                while seen < leaves_after:
                    seen += (await anext(lines)).startswith("data: {")
            await eventually(lambda: all_ended(pool))


async def test_a_failover_is_invisible(redis_url: str, pool: Pool) -> None:
    """The first lane's model server dies in mid-answer: the text has no gap and no repeat."""
    route = RolePolicy(route=(Candidate(lane="bad"), Candidate(lane="gpu0")))
    await pool.policies.write(Policy(roles={"default": route}))
    for cut_after in (1, 3, 5):
        async with (
            served(redis_url) as url,
            Simulator(api="vllm", tokens=6) as bad,
            lane_of(redis_url, LaneSettings("bad", "vllm", bad.url, capacity=4)),
            sdk(url) as asks,
        ):
            bad.faults.extend([FaultScript(cut_after=cut_after)] * 3)
            async with asks.messages.stream(**QUESTION) as stream:
                assert await stream.get_final_text() == WORDS
            await eventually(lambda: all_ended(pool))
