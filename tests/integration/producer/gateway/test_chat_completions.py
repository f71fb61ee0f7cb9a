"""Chat Completions with OpenAI's own SDK, in front of a pool with a lane whose model server is simulated."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic as anthropic_sdk
import httpx
import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from tests.documents import examples_of, run_example
from tests.gateways import events_of, gateway_of
from tests.integration.clients import quick_client
from tests.integration.farm import eventually
from tests.integration.lanes import lane_of
from tests.integration.life import ENDED, audit, raw
from tests.integration.stand_in import StandIn

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.answers import TokenDelta, TokenLogprob, TopLogprob
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool

TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
QUESTION: Any = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}


class Place(BaseModel):
    name: str


@dataclass
class Town:
    """A gateway in front of a lane."""

    url: str

    def sdk(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    async def post(self, **body: Any) -> httpx.Response:
        async with httpx.AsyncClient(timeout=30) as web:
            return await web.post(f"{self.url}/v1/chat/completions", json={**QUESTION, **body})


@asynccontextmanager
async def town_of(redis_url: str, policy: Policy | None = None, **simulated: Any) -> AsyncIterator[Town]:
    async with (
        Simulator(api="vllm", **{"tokens": 6, **simulated}) as simulator,
        lane_of(redis_url, LaneSettings("gpu0", "vllm", simulator.url, capacity=4)),
        quick_client(redis_url, agent="gateway") as client,
        gateway_of(client, policy=policy or Policy()) as url,
    ):
        yield Town(url)


@pytest.fixture
async def town(redis_url: str) -> AsyncIterator[Town]:
    async with town_of(redis_url) as town:
        yield town


async def all_ended(pool: Pool) -> bool:
    """Whether nothing is queued or running."""
    return set((await audit(raw(pool))).values()) <= set(ENDED)


async def test_streamed_or_whole_the_answer_is_the_same(town: Town) -> None:
    """With the usage, the model that the client named, and the lane that answered."""
    async with town.sdk() as asks:
        whole = await asks.chat.completions.create(**QUESTION)
        texts: list[str] = []
        usage = None
        async for chunk in await asks.chat.completions.create(
            **QUESTION, stream=True, stream_options={"include_usage": True}
        ):
            texts += [choice.delta.content or "" for choice in chunk.choices]
            usage = chunk.usage or usage
    assert whole.choices[0].message.content == "".join(texts) == "w0 w1 w2 w3 w4 w5 "
    assert whole.choices[0].finish_reason == "stop"
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens == 6
    assert whole.model == "sim"
    assert whole.model_dump()["x_tokenlane"]["lane"] == "gpu0"


async def test_the_sdk_without_asyncio(town: Town) -> None:
    def ask() -> tuple[str | None, str]:
        with OpenAI(base_url=f"{town.url}/v1", api_key="none", max_retries=0) as asks:
            whole = asks.chat.completions.create(**QUESTION)
            stream = asks.chat.completions.create(**QUESTION, stream=True)
            return whole.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in stream)

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed == "w0 w1 w2 w3 w4 w5 "


async def test_tools_and_schemas(town: Town) -> None:
    """A tool call comes in pieces or as a whole, its result goes back; a schema is parsed by the SDK."""
    async with town.sdk() as asks:
        more: Any = {"tools": [TOOL], "tool_choice": "required"}
        whole = await asks.chat.completions.create(**QUESTION, **more)
        async with asks.chat.completions.stream(**QUESTION, **more) as stream:
            async for _ in stream:
                pass
            streamed = await stream.get_final_completion()
        for message in (whole.choices[0].message, streamed.choices[0].message):
            assert message.tool_calls
            call = message.tool_calls[0]
            assert call.type == "function"
            assert call.function.name == "look"
            json.loads(call.function.arguments)
            result: Any = {"role": "tool", "tool_call_id": call.id, "content": "a house"}
            history: Any = [*QUESTION["messages"], message.model_dump(), result]
            again = await asks.chat.completions.create(model="sim", messages=history, tools=[TOOL])
            assert again.choices[0].finish_reason == "stop"
        parsed = await asks.chat.completions.parse(**QUESTION, response_format=Place)
        assert isinstance(parsed.choices[0].message.parsed, Place)


async def test_probabilities_of_tokens(redis_url: str, worker: StandIn) -> None:
    """They are carried through, in a stream and in a whole answer."""
    top = TopLogprob(token="b", logprob=-2.0, bytes=(98,))
    tokens = [TokenLogprob(token=token, logprob=-0.25, top_logprobs=(top,)) for token in "ac"]

    async def answer() -> None:
        run = await worker.next_run()
        assert (run.request.logprobs, run.request.top_logprobs) == (True, 1)
        await run.send([TokenDelta(text=token.token, logprobs=(token,)) for token in tokens])
        await run.complete()

    more: Any = {"model": "m1", "messages": QUESTION["messages"], "logprobs": True, "top_logprobs": 1}
    async with quick_client(redis_url) as client, gateway_of(client) as url, Town(url).sdk() as asks:
        whole, _ = await asyncio.gather(asks.chat.completions.create(**more), answer())
        async with asks.chat.completions.stream(**more) as stream:
            streamed, _ = await asyncio.gather(stream.get_final_completion(), answer())
    for completion in (whole, streamed):
        logprobs = completion.choices[0].logprobs
        assert logprobs is not None
        assert [TokenLogprob.model_validate(token.model_dump()) for token in logprobs.content or ()] == tokens


async def test_errors_of_the_pool_are_exceptions_of_the_sdk(town: Town) -> None:
    async with town.sdk() as asks:
        with pytest.raises(openai.NotFoundError):
            await asks.chat.completions.create(model="unheard-of", messages=QUESTION["messages"])
        with pytest.raises(openai.BadRequestError) as caught:
            await asks.chat.completions.create(**QUESTION, n=2)
        assert caught.value.param == "n"


async def test_a_client_may_leave_at_every_event(redis_url: str, pool: Pool) -> None:
    """Before the first event and after each: nothing stays queued or running."""
    async with town_of(redis_url, itl_ms=1) as town:
        events = len(events_of((await town.post(stream=True)).content))
        assert events > 6
        for leaves_after in range(events + 1):
            async with (
                httpx.AsyncClient(timeout=30) as web,
                web.stream("POST", f"{town.url}/v1/chat/completions", json={**QUESTION, "stream": True}) as response,
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
    for cut_after in range(1, 6):
        async with (
            town_of(redis_url) as town,
            Simulator(api="vllm", tokens=6) as bad,
            lane_of(redis_url, LaneSettings("bad", "vllm", bad.url, capacity=4)),
            town.sdk() as asks,
        ):
            bad.faults.extend([FaultScript(cut_after=cut_after)] * 3)
            async with asks.chat.completions.stream(**QUESTION) as stream:
                completion = await stream.get_final_completion()
            assert completion.choices[0].message.content == "w0 w1 w2 w3 w4 w5 "
            assert len(bad.faults) == 2
            await eventually(lambda: all_ended(pool))


async def test_a_client_joins_again_after_a_failover(redis_url: str, pool: Pool) -> None:
    """Another gateway sends what the client lacks, from the part of either lane."""
    route = RolePolicy(route=(Candidate(lane="bad"), Candidate(lane="gpu0")))
    await pool.policies.write(Policy(roles={"default": route}))
    whole = "w0 w1 w2 w3 w4 w5 "
    async with (
        town_of(redis_url) as town,
        Simulator(api="vllm", tokens=6) as bad,
        lane_of(redis_url, LaneSettings("bad", "vllm", bad.url, capacity=4)),
        quick_client(redis_url, agent="b") as other,
        gateway_of(other, pool=pool) as second,
        httpx.AsyncClient(timeout=30) as web,
    ):
        bad.faults.extend([FaultScript(cut_after=3)] * 3)
        response = await town.post(stream=True)
        assert _text(response) == whole
        assert len(bad.faults) == 2
        for place in range(1, len(whole)):
            headers = {"last-event-id": f"{response.headers['x-tokenlane-request']}.{place}"}
            body = {**QUESTION, "stream": True}
            again = await web.post(f"{second}/v1/chat/completions", json=body, headers=headers)
            assert _text(again) == whole[place:], (place, again.text)


def _text(response: httpx.Response) -> str:
    return "".join(
        event["choices"][0]["delta"].get("content") or "" for event in events_of(response.content) if "choices" in event
    )


async def test_models_and_vectors(redis_url: str, pool: Pool) -> None:
    """Roles, aliases that are no patterns, and models of lanes; and vectors of a model that embeds."""
    policy = Policy(roles={"planner": RolePolicy()}, aliases={"gpt-*": "planner", "smart": "planner"})
    async with town_of(redis_url, policy, models=["sim", "org/nomic-embed-text"]) as town, town.sdk() as asks:
        names = [model.id async for model in asks.models.list()]
        assert names[:2] == ["role:planner", "smart"]
        assert {"sim"} <= set(names[2:])
        assert (await asks.models.retrieve("sim")).object == "model"
        with pytest.raises(openai.NotFoundError):
            await asks.models.retrieve("unheard/of")
        async with AsyncAnthropic(base_url=town.url, api_key="none", max_retries=0) as anthropic:
            assert [model.id async for model in anthropic.models.list()] == names
            assert (await anthropic.models.retrieve("sim")).type == "model"
            with pytest.raises(anthropic_sdk.NotFoundError) as caught:
                await anthropic.models.retrieve("unheard/of")
            assert caught.value.type == "not_found_error"


async def test_the_examples_of_the_page(redis_url: str) -> None:
    """They are run as they stand, but for the gateway's address."""
    pages = examples_of("openai-chat")
    async with town_of(redis_url, models=["sim"]) as town, MockPool() as vectors, vectors.client() as client:
        code = pages["Ask"][0].replace("http://127.0.0.1:4000", town.url).replace("role:planner", "sim")
        assert (await run_example(code, AsyncOpenAI=AsyncOpenAI))["text"] == ""
        async with gateway_of(client) as url:
            code = pages["Vectors"][0].replace("http://127.0.0.1:4000", url)
            assert len((await run_example(code, AsyncOpenAI=AsyncOpenAI))["vector"]) == 27
