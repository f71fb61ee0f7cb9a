"""OpenAI's and Anthropic's own clients, unmodified, against the simulator that imitates their servers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx
import openai
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, MessageParam, ToolParam
from openai import AsyncOpenAI
from openai.types.responses import FunctionToolParam, ResponseCompletedEvent, ResponseFunctionToolCall
from pydantic import BaseModel

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript

PARAMETERS: dict[str, object] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FUNCTION: FunctionToolParam = {"type": "function", "name": "f", "parameters": PARAMETERS, "strict": False}
TOOL: ToolParam = {"name": "f", "input_schema": PARAMETERS}
QUESTION: list[MessageParam] = [{"role": "user", "content": "q"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Fields(BaseModel):
    """An answer with one field."""

    a: int


@asynccontextmanager
async def simulated(api: str, *faults: FaultScript) -> AsyncIterator[Simulator]:
    models = ["sim", "thinker", "vision"]
    async with Simulator(api=api, tokens=3, models=models, api_key="right", faults=faults) as simulator:
        yield simulator


@asynccontextmanager
async def openai_client(*faults: FaultScript, key: str = "right") -> AsyncIterator[AsyncOpenAI]:
    async with simulated("openai", *faults) as server:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=10) as client:
            yield client


@asynccontextmanager
async def anthropic_client(*faults: FaultScript, key: str = "right") -> AsyncIterator[AsyncAnthropic]:
    async with simulated("anthropic", *faults) as server:
        async with AsyncAnthropic(base_url=server.url, api_key=key, max_retries=0, timeout=10) as client:
            yield client


def texts_of(message: Message) -> list[str]:
    return [block.text for block in message.content if block.type == "text"]


async def test_a_response() -> None:
    """Streamed events build up the answer that comes without a stream; each has the next number."""
    async with openai_client() as client:
        whole = await client.responses.create(model="sim", input="q")
        assert (whole.output_text, whole.status) == ("w0 w1 w2 ", "completed")
        assert whole.usage is not None
        assert (whole.usage.output_tokens, whole.usage.total_tokens) == (3, whole.usage.input_tokens + 3)
        async with client.responses.stream(model="sim", input="q") as stream:
            events = [event async for event in stream]
            final = await stream.get_final_response()
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["w0 ", "w1 ", "w2 "]
    assert (final.output_text, final.usage) == (whole.output_text, whole.usage)


async def test_reasoning_in_responses() -> None:
    """It is an item before the message: as text, or as a summary if one is asked for."""
    async with openai_client() as client:
        plain = await client.responses.create(model="thinker", input="q")
        summed = await client.responses.create(model="thinker", input="q", reasoning={"summary": "auto"})
        async with client.responses.stream(model="thinker", input="q", reasoning={"summary": "auto"}) as stream:
            pieces = [event.delta async for event in stream if event.type == "response.reasoning_summary_text.delta"]
            final = await stream.get_final_response()
    assert [item.type for item in plain.output] == ["reasoning", "message"]
    (first, told) = (plain.output[0], summed.output[0])
    assert first.type == told.type == "reasoning"
    assert first.content is not None
    assert (first.content[0].text, first.summary) == (told.summary[0].text, [])
    assert "".join(pieces) == told.summary[0].text
    assert final.output_text == plain.output_text
    assert plain.usage is not None
    assert plain.usage.output_tokens_details.reasoning_tokens == 4


async def test_tools_in_responses() -> None:
    """Arguments are streamed and are valid; after the tool's result there is text."""
    async with openai_client() as client:
        async with client.responses.stream(model="sim", input="q", tools=[FUNCTION]) as stream:
            deltas = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
            called = await stream.get_final_response()
        (call,) = called.output
        assert isinstance(call, ResponseFunctionToolCall)
        assert json.loads(call.arguments) == json.loads("".join(deltas)) == {"a": 1}
        follow: Any = [
            {"role": "user", "content": "q"},
            call.model_dump(exclude_none=True),
            {"type": "function_call_output", "call_id": call.call_id, "output": "7"},
        ]
        answered = await client.responses.create(model="sim", input=follow, tools=[FUNCTION])
    assert (len(deltas) > 1, answered.output_text) == (True, "w0 w1 w2 ")


async def test_structure_pictures_and_limits_in_responses() -> None:
    """A schema is followed, a picture is counted, and a limit leaves the answer incomplete."""
    picture: Any = [{"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}]
    async with openai_client() as client:
        parsed = await client.responses.parse(model="sim", input="q", text_format=Fields)
        assert parsed.output_parsed == Fields(a=1)
        without = await client.responses.create(model="vision", input=[{"role": "user", "content": ""}])
        seen = await client.responses.create(model="vision", input=[{"role": "user", "content": picture}])
        assert without.usage is not None
        assert seen.usage is not None
        assert seen.usage.input_tokens - without.usage.input_tokens == 256
        extra = {"simulate": {"tokens": 40}}
        short = await client.responses.create(model="sim", input="q", max_output_tokens=16, extra_body=extra)
        assert short.incomplete_details is not None
        assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert len(short.output_text.split()) == 16


async def test_errors_of_responses() -> None:
    """Each is the class of the client's own; an error after tokens is an event, and the response has failed."""
    async with openai_client(FaultScript(status=429), FaultScript(error_after=1)) as client:
        with pytest.raises(openai.RateLimitError):
            await client.responses.create(model="sim", input="q")
        stream = await client.responses.create(model="sim", input="q", stream=True)
        *_, error, last = [event async for event in stream]
        assert (error.type, last.type) == ("error", "response.failed")
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="none", input="q")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="sim", input="q", previous_response_id="resp_1")
        assert refused.value.param == "previous_response_id"
    async with openai_client(key="wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.responses.create(model="sim", input="q")


async def test_a_stream_without_an_end() -> None:
    """It ends as if it were complete, without its last event."""
    async with openai_client(FaultScript(no_end=True)) as client:
        stream = await client.responses.create(model="sim", input="q", stream=True)
        assert not [event async for event in stream if isinstance(event, ResponseCompletedEvent)]


async def test_a_message() -> None:
    """Streamed events build up the message that comes without a stream."""
    async with anthropic_client() as client:
        whole = await client.messages.create(model="sim", max_tokens=99, messages=QUESTION)
        async with client.messages.stream(model="sim", max_tokens=99, messages=QUESTION) as stream:
            texts = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
        counted = await client.messages.count_tokens(model="sim", messages=QUESTION)
        assert [model.id async for model in client.models.list()] == ["sim", "thinker", "vision"]
    assert texts == ["w0 ", "w1 ", "w2 "]
    assert texts_of(final) == texts_of(whole) == ["w0 w1 w2 "]
    assert (final.usage.output_tokens, whole.usage.output_tokens, final.stop_reason) == (3, 3, "end_turn")
    assert final.usage.input_tokens == whole.usage.input_tokens == counted.input_tokens


async def test_thinking_in_messages() -> None:
    """It is a block before the text, and only if it is switched on."""
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    async with anthropic_client() as client:
        quiet = await client.messages.create(model="thinker", max_tokens=99, messages=QUESTION)
        whole = await client.messages.create(model="thinker", max_tokens=99, messages=QUESTION, thinking=thinking)
        async with client.messages.stream(
            model="thinker", max_tokens=99, messages=QUESTION, thinking=thinking
        ) as stream:
            final = await stream.get_final_message()
    assert [block.type for block in quiet.content] == ["text"]
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert final.content[0] == whole.content[0]
    assert texts_of(final) == texts_of(whole)


async def test_tools_in_messages() -> None:
    """Arguments are streamed and are valid; after the tool's result there is text."""
    async with anthropic_client() as client:
        async with client.messages.stream(model="sim", max_tokens=99, messages=QUESTION, tools=[TOOL]) as stream:
            called = await stream.get_final_message()
        (call,) = called.content
        assert call.type == "tool_use"
        assert (call.name, call.input, called.stop_reason) == ("f", {"a": 1}, "tool_use")
        follow: list[MessageParam] = [
            *QUESTION,
            {"role": "assistant", "content": called.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "7"}]},
        ]
        answered = await client.messages.create(model="sim", max_tokens=99, messages=follow, tools=[TOOL])
    assert answered.content[0].type == "text"


async def test_how_messages_end() -> None:
    """By a stop sequence, which is named; by the limit; and where the assistant's beginning is continued."""
    begun: list[MessageParam] = [*QUESTION, {"role": "assistant", "content": "w0 w"}]
    async with anthropic_client() as client:
        stopped = await client.messages.create(model="sim", max_tokens=99, messages=QUESTION, stop_sequences=["w1"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "w1")
        short = await client.messages.create(model="sim", max_tokens=2, messages=QUESTION)
        assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)
        continued = await client.messages.create(model="sim", max_tokens=99, messages=begun)
        assert continued.content[0].type == "text"
        assert continued.content[0].text == "1 w2 "
        parsed = await client.messages.parse(model="sim", max_tokens=99, messages=QUESTION, output_format=Fields)
        assert parsed.parsed_output == Fields(a=1)


async def test_errors_of_messages() -> None:
    """Each is the class of the client's own, also in mid-stream."""
    async with anthropic_client(FaultScript(status=429), FaultScript(status=529), FaultScript(error_after=1)) as client:
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(model="sim", max_tokens=9, messages=QUESTION)
        with pytest.raises(anthropic.APIStatusError) as busy:
            await client.messages.create(model="sim", max_tokens=9, messages=QUESTION)
        assert busy.value.status_code == 529
        with pytest.raises(anthropic.APIStatusError):
            async with client.messages.stream(model="sim", max_tokens=9, messages=QUESTION) as stream:
                await stream.get_final_message()
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(model="none", max_tokens=9, messages=QUESTION)
    async with anthropic_client(key="wrong") as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(model="sim", max_tokens=9, messages=QUESTION)


@pytest.mark.parametrize(
    ("api", "path", "body"),
    [
        ("openai", "/v1/responses", {"input": 7}),
        ("openai", "/v1/responses", {"input": [{"type": "unknown"}]}),
        ("openai", "/v1/responses", {"input": "q", "background": True}),
        ("openai", "/v1/responses", {"input": "q", "max_output_tokens": 1}),
        ("openai", "/v1/responses", {"input": "q", "tools": [{"type": "web_search"}]}),
        ("openai", "/v1/responses", {"input": "q", "tool_choice": {"type": "mcp"}}),
        ("openai", "/v1/responses", {"input": "q", "text": {"format": {"type": "grammar"}}}),
        ("anthropic", "/v1/messages", {"messages": QUESTION}),
        ("anthropic", "/v1/messages", {"max_tokens": 0, "messages": QUESTION}),
        ("anthropic", "/v1/messages", {"max_tokens": 9, "messages": []}),
        ("anthropic", "/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": [{}]}]}),
        ("anthropic", "/v1/messages", {"max_tokens": 9, "messages": QUESTION, "tools": [{"name": "f"}]}),
        ("anthropic", "/v1/messages", {"max_tokens": 9, "messages": QUESTION, "tool_choice": {"type": "some"}}),
    ],
)
async def test_what_is_refused(api: str, path: str, body: dict[str, object]) -> None:
    """A field that is wrong, or asks for what is not simulated."""
    async with simulated(api) as server, httpx.AsyncClient(base_url=server.url) as client:
        headers = {"Authorization": "Bearer right"}
        assert (await client.post(path, json={"model": "sim", **body}, headers=headers)).status_code == 400
