"""Anthropic's own clients, unmodified, in front of a mock pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel
from tests.gateways import events_of, gateway_of

from tokenlane.producer.gateway.http.outlet import Pauses
from tokenlane.producer.testing import Failover, MockPool
from tokenlane.routing.contract import errors
from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta
from tokenlane.routing.contract.prompt_size import estimated_tokens
from tokenlane.routing.contract.requests import ChatRequest

LOOK: ToolParam = {
    "name": "look",
    "description": "looks somewhere",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
HI: list[MessageParam] = [{"role": "user", "content": "hi"}]
BUSY = Pauses(first_byte_s=0, ping_every_s=0.002)
"""Pings all the time: a wait of two seconds has as many as half an hour in a gateway with its usual pauses."""


def sdk(url: str) -> AsyncAnthropic:
    """The client, which tries nothing twice."""
    return AsyncAnthropic(base_url=url, api_key="none", max_retries=0)


def thinks_and_looks(request: ChatRequest) -> list[TokenDelta]:
    """Thinks, says a word and calls two tools; then answers with their results."""
    if results := [message.content for message in request.messages if message.role == "tool"]:
        return [TokenDelta(text=f"I saw {results}.")]
    return [
        TokenDelta(reasoning="hm "),
        TokenDelta(reasoning="yes"),
        TokenDelta(text="I look é🙂."),
        TokenDelta(tool_calls=(ToolCallDelta(index=0, id="a", name="look", arguments='{"at"'),)),
        TokenDelta(tool_calls=(ToolCallDelta(index=0, arguments=': "sea"}'),)),
        TokenDelta(tool_calls=(ToolCallDelta(index=1, id="b", name="look", arguments='{"at": "sky"}'),)),
        TokenDelta(finish_reason="tool_calls"),
    ]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_turn_with_tools_and_back(is_streamed: bool) -> None:
    """Thinking, text and calls are blocks; sent back as they are, with results, they are the conversation."""
    async with MockPool(thinks_and_looks) as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as ai:

        async def ask(messages: list[MessageParam]) -> anthropic.types.Message:
            if not is_streamed:
                return await ai.messages.create(model="role:planner", max_tokens=99, messages=messages, tools=[LOOK])
            async with ai.messages.stream(
                model="role:planner", max_tokens=99, messages=messages, tools=[LOOK]
            ) as stream:
                return await stream.get_final_message()

        first = await ask(HI)
        thinking, text, *calls = first.content
        assert (thinking.type, thinking.type == "thinking" and thinking.thinking) == ("thinking", "hm yes")
        assert (text.type, text.type == "text" and text.text) == ("text", "I look é🙂.")
        assert [call.input for call in calls if call.type == "tool_use"] == [{"at": "sea"}, {"at": "sky"}]
        assert first.stop_reason == "tool_use"
        results: Any = [
            {"type": "tool_result", "tool_use_id": call.id, "content": "blue"}
            for call in calls
            if call.type == "tool_use"
        ]
        answers: MessageParam = {"role": "user", "content": results}
        second = await ask([*HI, first.to_param(), answers])
        assert second.stop_reason == "end_turn"
        assert [block.type for block in second.content] == ["text"]
        sent = pool.requests[-1]
        assert (sent.role, [message.role for message in sent.messages]) == (
            "planner",
            ["user", "assistant", "tool", "tool"],
        )
        assert sent.messages[1].thought == "hm yes"


def test_the_client_that_blocks() -> None:
    """The SDK without asyncio, whole and streamed."""

    async def run() -> tuple[str, str]:
        async with MockPool(lambda _: ["Good ", "day"]) as pool, pool.client() as client, gateway_of(client) as url:
            return await asyncio.to_thread(ask, url)

    def ask(url: str) -> tuple[str, str]:
        with Anthropic(base_url=url, api_key="none", max_retries=0) as ai:
            whole = ai.messages.create(model="role:planner", max_tokens=9, messages=HI)
            with ai.messages.stream(model="role:planner", max_tokens=9, messages=HI) as stream:
                streamed = "".join(stream.text_stream)
        assert whole.content[0].type == "text"
        return whole.content[0].text, streamed

    assert asyncio.run(run()) == ("Good day", "Good day")


async def test_a_schema() -> None:
    """The SDK's `parse` gets an instance of the model."""

    class Place(BaseModel):
        name: str

    async with (
        MockPool(lambda _: '{"name": "Bern"}') as pool,
        pool.client() as client,
        gateway_of(client) as url,
        sdk(url) as ai,
    ):
        answer = await ai.messages.parse(model="role:planner", max_tokens=9, messages=HI, output_format=Place)
        assert answer.parsed_output == Place(name="Bern")
        shape = pool.requests[0].response_format
        assert shape is not None
        assert shape["type"] == "json_schema"


async def test_ids() -> None:
    """The request's id is where the SDK looks for it, and in the message's id."""
    async with MockPool(lambda _: "a") as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as ai:
        whole = await ai.messages.create(model="role:planner", max_tokens=9, messages=HI)
        assert whole.id == f"msg_{whole._request_id}"
        async with ai.messages.stream(model="role:planner", max_tokens=9, messages=HI) as stream:
            assert (await stream.get_final_message()).id == f"msg_{stream.request_id}"


@pytest.mark.parametrize(
    ("error", "raised", "kind"),
    [
        (errors.BadRequest("no"), anthropic.BadRequestError, "invalid_request_error"),
        (errors.ContextTooLong("too long"), anthropic.BadRequestError, "invalid_request_error"),
        (errors.ModelNotFound("none"), anthropic.NotFoundError, "not_found_error"),
        (errors.QueueFull("full", retry_after_s=3), anthropic.RateLimitError, "rate_limit_error"),
        (errors.DeadlineExceeded("late"), anthropic.RequestTimeoutError, "timeout_error"),
        (errors.ProviderDown("down"), anthropic.ServiceUnavailableError, "overloaded_error"),
        (errors.Timeout("slow"), anthropic.GatewayTimeoutError, "timeout_error"),
        (errors.UnreadableAnswer("what"), anthropic.InternalServerError, "api_error"),
    ],
)
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_errors(
    error: errors.LlmError, raised: type[anthropic.APIStatusError], kind: str, is_streamed: bool
) -> None:
    """Each is the SDK's own exception, with our code."""

    def fails(_: ChatRequest) -> str:
        raise error

    pauses = Pauses(first_byte_s=20)
    async with (
        MockPool(fails) as pool,
        pool.client() as client,
        gateway_of(client, pauses=pauses) as url,
        sdk(url) as ai,
    ):
        with pytest.raises(raised) as info:
            await ai.messages.create(model="role:planner", max_tokens=9, messages=HI, stream=is_streamed)
    assert (info.value.type, info.value.error_code) == (kind, error.code)
    assert info.value.request_id is not None
    assert info.value.response.headers.get("retry-after") == ("3" if error.code == "queue_full" else None)


async def test_coding_agents_recognise_a_conversation_that_is_too_long() -> None:
    """By Anthropic's own words, upon which they shorten it."""

    def fails(_: ChatRequest) -> str:
        raise errors.ContextTooLong("The prompt has 9 tokens.")

    async with MockPool(fails) as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as ai:
        with pytest.raises(anthropic.BadRequestError) as info:
            await ai.messages.create(model="role:planner", max_tokens=9, messages=HI)
    assert "prompt is too long" in info.value.message


async def test_a_refusal_has_anthropics_shape() -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as ai:
        with pytest.raises(anthropic.BadRequestError) as info:
            await ai.messages.create(model="m", max_tokens=9, messages=HI, extra_body={"container": "c"})
        assert (info.value.type, info.value.error_code) == ("invalid_request_error", "unsupported_parameter")
        assert pool.requests == []


async def test_a_path_that_does_not_exist_has_anthropics_shape() -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as ai:
        with pytest.raises(anthropic.NotFoundError) as info:
            await ai.messages.batches.retrieve("b")
    assert (info.value.type, info.value.error_code) == ("not_found_error", "no_such_path")


async def test_a_failure_after_tokens() -> None:
    """An error event, never a clean end."""

    def breaks(_: ChatRequest) -> Iterator[str]:
        yield "half"
        raise errors.Interrupted("broke")

    async with MockPool(breaks) as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as ai:
        async with ai.messages.stream(model="role:planner", max_tokens=9, messages=HI) as stream:
            with pytest.raises(anthropic.APIStatusError) as info:
                await stream.until_done()
            (block,) = stream.current_message_snapshot.content
        assert block.type == "text"
        assert (block.text, info.value.error_code) == ("half", "interrupted")


async def test_a_failover_is_invisible() -> None:
    def fails_over(_: ChatRequest) -> list[str | Failover]:
        return ["one ", Failover(), "two"]

    async with MockPool(fails_over) as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as ai:
        async with ai.messages.stream(model="role:planner", max_tokens=9, messages=HI) as stream:
            assert await stream.get_final_text() == "one two"


async def test_half_an_hour_of_waiting() -> None:
    """The client waits as long as it takes; the stream is never silent."""
    go_on = asyncio.Event()

    async def slow(_: ChatRequest) -> AsyncIterator[str]:
        await go_on.wait()
        yield "at last"

    async with MockPool(slow) as pool, pool.client() as client, gateway_of(client, pauses=BUSY) as url:
        body = {"model": "role:planner", "max_tokens": 9, "messages": HI, "stream": True}
        async with (
            httpx.AsyncClient() as web,
            web.stream("POST", f"{url}/v1/messages", json=body) as response,
            sdk(url) as ai,
            ai.messages.stream(model="role:planner", max_tokens=9, messages=HI) as stream,
        ):
            received = b""
            async for chunk in response.aiter_bytes():
                received += chunk
                if received.count(b"event: ping") >= 225:
                    go_on.set()
            kinds = [event["type"] for event in events_of(received)]
            assert kinds[-1] == "message_stop"
            assert kinds.count("message_start") == 1
            assert await stream.get_final_text() == "at last"


async def test_counting_tokens() -> None:
    """The estimate by which the pool itself plans, without asking a model."""
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, sdk(url) as ai:
        response = await ai.messages.with_raw_response.count_tokens(
            model="role:planner", system="Be brief.", messages=HI, tools=[LOOK]
        )
        assert response.headers["x-tokenlane-estimate"] == "true"
        counted = (await response.parse()).input_tokens
        with pytest.raises(anthropic.BadRequestError):
            await ai.messages.count_tokens(model="role:planner", messages=[])
        assert pool.requests == []
        await ai.messages.create(model="role:planner", max_tokens=9, system="Be brief.", messages=HI, tools=[LOOK])
        assert counted == estimated_tokens(pool.requests[0])
