"""Responses in the foreground, with OpenAI's own client in front of a mock pool."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseReasoningItem
from pydantic import BaseModel
from tests.gateways import served

from tokenlane.producer.gateway.http.outlet import Pauses
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta
from tokenlane.routing.contract.errors import ProviderDown, QueueFull
from tokenlane.routing.contract.requests import ChatRequest

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


def calling(_: ChatRequest) -> list[TokenDelta]:
    """Thinks, says a word, and calls two tools."""
    return [
        TokenDelta(reasoning="hm "),
        TokenDelta(reasoning="yes"),
        TokenDelta(text="I "),
        TokenDelta(text="look é🙂"),
        TokenDelta(tool_calls=(ToolCallDelta(index=0, id="call_a", name="weather", arguments='{"city"'),)),
        TokenDelta(tool_calls=(ToolCallDelta(index=0, arguments=':"Bern"}'),)),
        TokenDelta(tool_calls=(ToolCallDelta(index=1, id="call_b", name="weather", arguments="{}"),)),
        TokenDelta(finish_reason="tool_calls"),
    ]


def sdk(url: str, agent: str = "tester") -> AsyncOpenAI:
    """The client, which tries nothing twice."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, default_headers={"x-agent": agent})


async def test_a_text() -> None:
    """A whole answer, and the streamed one, have the same text; the pool gets instructions and options."""
    async with MockPool(lambda _: ["Good ", "day"]) as pool, served(pool) as url, sdk(url) as client:
        whole = await client.responses.create(
            model="role:planner", instructions="Be brief.", input="hi", max_output_tokens=7, reasoning={"effort": "low"}
        )
        assert (whole.output_text, whole.status, whole.instructions) == ("Good day", "completed", "Be brief.")
        async with client.responses.stream(model="role:planner", input=[{"role": "user", "content": "hi"}]) as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
        assert final.output_text == "Good day"
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        assert [event.type for event in events] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        first = pool.requests[0]
        assert [(message.role, message.content) for message in first.messages] == [
            ("system", "Be brief."),
            ("user", "hi"),
        ]
        assert (first.role, first.max_tokens, first.reasoning_effort) == ("planner", 7, "low")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_reasoning_and_tool_calls(is_streamed: bool) -> None:
    """Reasoning, text and two calls are items of their own, in their order."""
    async with MockPool(calling) as pool, served(pool) as url, sdk(url) as client:
        answer: Response
        if is_streamed:
            async with client.responses.stream(model="m", input="hi", tools=[WEATHER]) as stream:
                answer = await stream.get_final_response()
        else:
            answer = await client.responses.create(model="m", input="hi", tools=[WEATHER])
        assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
        thought, _, first, second = answer.output
        assert isinstance(thought, ResponseReasoningItem)
        assert thought.content is not None
        assert thought.content[0].text == "hm yes"
        assert answer.output_text == "I look é🙂"
        assert isinstance(first, ResponseFunctionToolCall)
        assert isinstance(second, ResponseFunctionToolCall)
        assert (first.call_id, first.name, json.loads(first.arguments)) == ("call_a", "weather", {"city": "Bern"})
        assert (second.call_id, second.arguments) == ("call_b", "{}")


async def test_the_turn_after_a_tool_call() -> None:
    """Items go back as a client sends them; or the client names the previous response."""
    async with MockPool(calling) as pool, served(pool) as url, sdk(url) as client:
        first = await client.responses.create(model="m", instructions="old", input="hi", tools=[WEATHER])
        results: list[Any] = [
            {"type": "function_call_output", "call_id": "call_a", "output": "rain"},
            {"type": "function_call_output", "call_id": "call_b", "output": [{"type": "input_text", "text": "sun"}]},
        ]
        kept = [item.model_dump(exclude_none=True) for item in first.output]
        asked: list[Any] = [{"role": "user", "content": "hi"}, *kept, *results]
        await client.responses.create(model="m", input=asked, tools=[WEATHER])
        await client.responses.create(
            model="m",
            instructions="new",
            input=results,
            previous_response_id=first.id,
            tools=[WEATHER],
        )
        items, named = pool.requests[1].messages, pool.requests[2].messages
        assert [message.role for message in items] == ["user", "assistant", "tool", "tool"]
        assert items[1].reasoning_content == "hm yes"
        assert [call["id"] for call in items[1].tool_calls or ()] == ["call_a", "call_b"]
        assert items[3].content == "sun"
        assert named[0].content == "new"
        assert named[1:] == items


async def test_a_previous_response_of_another() -> None:
    """Neither another agent's response nor one that was not to be kept can be gone on with."""
    async with MockPool(lambda _: "ok") as pool, served(pool) as url, sdk(url) as mine, sdk(url, "other") as theirs:
        kept = await mine.responses.create(model="m", input="hi")
        unkept = await mine.responses.create(model="m", input="hi", store=False)
        for client, named in ((theirs, kept.id), (mine, unkept.id), (mine, "resp_" + "0" * 32)):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.create(model="m", input="on", previous_response_id=named)
            assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")
        assert (await mine.responses.create(model="m", input="on", previous_response_id=kept.id)).output_text == "ok"


class Point(BaseModel):
    """A structured answer."""

    x: int


async def test_parse() -> None:
    """The SDK's `parse` sends a schema and reads the answer by it."""
    async with MockPool(lambda _: '{"x": 3}') as pool, served(pool) as url, sdk(url) as client:
        answer = await client.responses.parse(model="m", input="hi", text_format=Point)
        assert answer.output_parsed == Point(x=3)
        shape = pool.requests[0].response_format
        assert shape is not None
        assert shape["type"] == "json_schema"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("conversation", "conv_1", "unsupported_parameter"),
        ("prompt", {"id": "pmpt_1"}, "unsupported_parameter"),
        ("top_logprobs", 3, "unsupported_parameter"),
        ("tools", [{"type": "web_search"}], "unsupported_tool"),
        ("tools", [{"type": "custom", "name": "patch"}], "unsupported_tool"),
        ("tools", [{"type": "local_shell"}], "unsupported_tool"),
        ("input", [{"type": "item_reference", "id": "msg_1"}], "unsupported_item"),
        ("input", [{"type": "computer_call_output"}], "unsupported_item"),
        ("input", [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}], "unsupported_content"),
        ("input", [{"role": "robot", "content": "x"}], "bad_request"),
        ("input", [], "bad_request"),
        ("input", 3, "bad_request"),
        ("max_output_tokens", "many", "bad_request"),
        ("tool_choice", {"type": "function", "name": "nobody"}, "bad_request"),
        ("text", {"format": {"type": "grammar"}}, "bad_request"),
        ("background", True, "unsupported_parameter"),
        ("background_options", {"completion_window": "2h"}, "bad_request"),
        ("surprise", 1, "unknown_parameter"),
    ],
)
async def test_refused_by_name(field: str, value: object, code: str) -> None:
    """What the pool cannot do is refused before it is asked, and the error names the field."""
    async with MockPool() as pool, served(pool) as url, httpx.AsyncClient() as client:
        body = {"model": "m", "input": "hi", field: value}
        response = await client.post(f"{url}/v1/responses", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, code)
        assert error["param"].startswith(field)
        assert pool.requests == []


async def test_errors_have_their_exceptions() -> None:
    """The SDK raises the exception of each class of errors; after the first event a failure is an event."""

    async def broken(_: ChatRequest) -> AsyncIterator[str]:
        yield "some "
        raise ProviderDown("It burnt down.")

    def full(_: ChatRequest) -> str:
        raise QueueFull("Full.", retry_after_s=3)

    async with MockPool(full) as pool, served(pool) as url, sdk(url) as client:
        with pytest.raises(openai.RateLimitError) as refused:
            await client.responses.create(model="m", input="hi")
        assert refused.value.response.headers["retry-after"] == "3"
    async with MockPool(broken) as pool, served(pool) as url, sdk(url) as client:
        stream = await client.responses.create(model="m", input="hi", stream=True)
        events = [event async for event in stream]
        assert events[-1].type == "response.failed"
        assert events[-1].response.error is not None
        assert str(events[-1].response.error.code) == "interrupted"
        assert events[-1].response.output_text == "some "


async def test_pings_are_events() -> None:
    """A long wait is full of events whose numbers rise, also for clients that do not see comments."""
    go = asyncio.Event()

    async def slow(_: ChatRequest) -> AsyncIterator[str]:
        await go.wait()
        yield "done"

    pauses = Pauses(first_byte_s=0.01, ping_every_s=0.01)
    async with MockPool(slow) as pool, served(pool, pauses) as url, sdk(url) as client:
        async with client.responses.stream(model="m", input="hi") as stream:
            numbers = list[int]()
            async for event in stream:
                numbers.append(event.sequence_number)
                if len(numbers) == 225:  # 30 minutes with a ping each 8 s
                    go.set()
            final = await stream.get_final_response()
        assert final.output_text == "done"
        assert numbers == sorted(set(numbers))


async def test_leaving_at_every_event() -> None:
    """Wherever a client leaves, its request ends."""
    ended = list[str]()

    async def endless(request: ChatRequest) -> AsyncIterator[TokenDelta]:
        try:
            for delta in calling(request):
                yield delta
                await asyncio.sleep(0)
            await asyncio.Event().wait()
        finally:
            ended.append(request.id)

    async with MockPool(endless) as pool, served(pool) as url, sdk(url) as client:
        for leave_after in range(1, 12):
            stream = await client.responses.create(model="m", input="hi", stream=True)
            for _ in range(leave_after):
                await anext(stream)
            await stream.close()
            async with asyncio.timeout(5):
                while len(ended) < leave_after:
                    await asyncio.sleep(0.01)
        assert sorted(ended) == sorted(request.id for request in pool.requests)


CODEX: dict[str, object] = {
    "model": "gpt-5-codex",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "fix it"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"},
        {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "call_1"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py"},
    ],
    "tools": [
        {"type": "function", "name": "shell", "description": "", "strict": False, "parameters": {"type": "object"}},
        {"type": "function", "name": "update_plan", "strict": False, "parameters": {"type": "object"}},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
    "text": {"verbosity": "low"},
    "client_metadata": {"x-codex-installation-id": "1"},
}
"""A request as Codex sends it, recreated from its public source."""


async def test_codex() -> None:
    """The traffic of Codex: reasoning comes as a summary, which it shows, and each call as an item that is done."""
    headers = {"session_id": "0199a213-81c0-7800-8aa1-bbab2a035a53", "originator": "codex_cli_rs"}
    async with MockPool(calling) as pool, served(pool) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/responses", json=CODEX, headers=headers)
        events = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: ")]
        kinds = [event["type"] for event in events]
        assert "response.reasoning_summary_text.delta" in kinds
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert [item["type"] for item in done] == ["reasoning", "message", "function_call", "function_call"]
        assert done[2]["call_id"] == "call_a"
        assert events[-1]["type"] == "response.completed"
        assert events[-1]["response"]["usage"]["total_tokens"] >= 0
        (request,) = pool.requests
        assert [message.role for message in request.messages] == ["system", "developer", "user", "assistant", "tool"]
        assert request.conversation == "0199a213-81c0-7800-8aa1-bbab2a035a53"
