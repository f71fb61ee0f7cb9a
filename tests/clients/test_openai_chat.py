"""OpenAI's own client and Chat Completions."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import (
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
)
from pydantic import BaseModel
from tests.clients.behind import FULL, Door
from tests.waiting import until

from tokenlane.benches.simulator.fault_script import FaultScript

PARAMETERS: dict[str, object] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOL: ChatCompletionFunctionToolParam = {
    "type": "function",
    "function": {"name": "f", "parameters": PARAMETERS, "strict": True},
}
QUESTION: ChatCompletionUserMessageParam = {"role": "user", "content": "q"}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


class Fields(BaseModel):
    """An answer with one field."""

    a: int


@pytest.fixture
def client(door: Door) -> Iterator[OpenAI]:
    with OpenAI(base_url=door.openai, api_key=door.key, max_retries=0, timeout=60) as client:
        yield client


def test_a_whole_answer(client: OpenAI) -> None:
    """It has the text, how it ended, and the usage."""
    answer = client.chat.completions.create(model="sim", messages=[QUESTION])
    assert answer.choices[0].message.content == "w0 w1 w2 "
    assert (answer.choices[0].finish_reason, answer.model, answer.object) == ("stop", "sim", "chat.completion")
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 3 + answer.usage.prompt_tokens)


def test_a_streamed_answer(client: OpenAI) -> None:
    """The usage comes last, if it was asked for."""
    chunks = [*client.chat.completions.create(model="sim", messages=[QUESTION], stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "w0 w1 w2 "
    assert [chunk.usage for chunk in chunks if chunk.usage] == []
    assert len({chunk.id for chunk in chunks}) == 1
    *_, last = client.chat.completions.create(
        model="sim", messages=[QUESTION], stream=True, stream_options={"include_usage": True}
    )
    assert last.usage is not None
    assert (last.choices, last.usage.completion_tokens) == ([], 3)


async def test_streams_at_once(door: Door) -> None:
    """The asynchronous client, and what gathers a stream."""
    async with AsyncOpenAI(base_url=door.openai, api_key=door.key, max_retries=0, timeout=60) as client:
        async with client.chat.completions.stream(model="sim", messages=[QUESTION]) as stream:
            deltas = [event.delta async for event in stream if event.type == "content.delta"]
            final = await stream.get_final_completion()
    assert "".join(deltas) == final.choices[0].message.content == "w0 w1 w2 "


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_used(client: OpenAI, streamed: bool) -> None:
    """Arguments are valid; after the result there is text."""
    if streamed:
        with client.chat.completions.stream(model="sim", messages=[QUESTION], tools=[TOOL]) as stream:
            choice = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.parse(model="sim", messages=[QUESTION], tools=[TOOL]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("f", {"a": 1})
    result: ChatCompletionToolMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "7"}
    asked: list[ChatCompletionMessageParam] = [
        QUESTION,
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        },
        result,
    ]
    answer = client.chat.completions.create(model="sim", messages=asked, tools=[TOOL])
    assert answer.choices[0].message.content == "w0 w1 w2 "


def test_a_schema(client: OpenAI) -> None:
    """`parse` returns an object of the class."""
    parsed = client.chat.completions.parse(model="sim", messages=[QUESTION], response_format=Fields)
    assert parsed.choices[0].message.parsed == Fields(a=1)


def test_a_picture(client: OpenAI, door: Door) -> None:
    """It reaches the model server."""
    url = f"data:image/png;base64,{PIXEL}"
    seen: ChatCompletionUserMessageParam = {
        "role": "user",
        "content": [{"type": "text", "text": "q"}, {"type": "image_url", "image_url": {"url": url}}],
    }
    answer = client.chat.completions.create(model="vision", messages=[seen])
    assert answer.choices[0].message.content == "w0 w1 w2 "
    assert PIXEL.encode() in door.simulator.log[-1].body


def test_reasoning(client: OpenAI) -> None:
    """It stands in the field that other servers use, apart from the text."""
    message = client.chat.completions.create(model="thinker", messages=[QUESTION]).choices[0].message
    assert message.content == "w0 w1 w2 "
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"].split() == ["w0", "w1", "w2", "w3"]


def test_options(client: OpenAI, door: Door) -> None:
    """They reach the model server, and limits and stop strings show in how the answer ends."""
    short = client.chat.completions.create(
        model="sim", messages=[QUESTION], max_completion_tokens=2, seed=7, temperature=0.5, top_p=0.9
    )
    assert (short.choices[0].finish_reason, short.usage and short.usage.completion_tokens) == ("length", 2)
    body = json.loads(door.simulator.log[-1].body)
    assert (body["seed"], body["temperature"], body["top_p"]) == (7, 0.5, 0.9)
    stopped = client.chat.completions.create(model="sim", messages=[QUESTION], stop=["w2"])
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("w0 w1 ", "stop")


def test_a_model_that_nobody_has(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="none", messages=[QUESTION])
    assert refused.value.code == "model_not_found"


def test_a_key_that_nobody_has(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").chat.completions.create(model="sim", messages=[QUESTION])


@pytest.mark.parametrize(
    "wrong", [{"n": 2}, {"modalities": ["text", "audio"], "audio": {"voice": "a", "format": "mp3"}}]
)
def test_what_a_pool_cannot_do(client: OpenAI, wrong: dict[str, object]) -> None:
    """It is refused by the field's name."""
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="sim", messages=[QUESTION], extra_body=wrong)
    assert refused.value.param in wrong


def test_a_role_that_is_full(client: OpenAI, door: Door) -> None:
    """One request is running, which is all that the role may have."""
    door.simulator.faults.append(FaultScript(hold_after=1))
    with client.chat.completions.create(model=FULL, messages=[QUESTION], stream=True) as running:
        next(running)
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model=FULL, messages=[QUESTION])
        assert float(refused.value.response.headers["retry-after"]) >= 1
        door.simulator.release()
        assert [chunk.choices[0].finish_reason for chunk in running if chunk.choices][-1] == "stop"


def test_an_answer_that_breaks_off(client: OpenAI, door: Door) -> None:
    """The error comes after the text so far, as an exception."""
    schema = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": PARAMETERS},
    }  # such answers are not continued
    door.simulator.faults.append(FaultScript(cut_after=2))
    chunks = client.chat.completions.create(
        model="sim", messages=[QUESTION], stream=True, extra_body={"response_format": schema}
    )
    assert next(chunks).choices
    with pytest.raises(openai.APIError) as broken:
        list(chunks)
    assert broken.value.code == "interrupted"


async def test_a_client_that_leaves(client: OpenAI, door: Door) -> None:
    """Its request is cancelled: the model server's connection is closed."""
    door.simulator.faults.append(FaultScript(hold_after=1))
    stream = client.chat.completions.create(model="sim", messages=[QUESTION], stream=True)
    next(stream)
    index = door.simulator.log[-1].index
    stream.close()
    await until(lambda: door.ended(index) == "disconnected")
