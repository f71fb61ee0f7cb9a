"""Anthropic's own client and Messages."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel
from tests.clients.behind import FULL, Door
from tests.waiting import until

from tokenlane.benches.simulator.fault_script import FaultScript

SCHEMA: dict[str, object] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL: ToolParam = {"name": "f", "description": "A function.", "input_schema": SCHEMA}
QUESTION: MessageParam = {"role": "user", "content": "q"}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()


class Fields(BaseModel):
    """An answer with one field."""

    a: int


@pytest.fixture
def client(door: Door) -> Iterator[Anthropic]:
    with Anthropic(base_url=door.url, api_key=door.key, max_retries=0, timeout=60) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_whole_answer(client: Anthropic) -> None:
    """It has the text, how it ended, and the usage."""
    answer = client.messages.create(model="sim", max_tokens=99, system="Be brief.", messages=[QUESTION])
    assert (text_of(answer), answer.stop_reason, answer.model) == ("w0 w1 w2 ", "end_turn", "sim")
    assert (answer.usage.output_tokens, answer.usage.input_tokens > 0) == (3, True)


def test_a_streamed_answer(client: Anthropic) -> None:
    """Events build up the message."""
    with client.messages.stream(model="sim", max_tokens=99, messages=[QUESTION]) as stream:
        texts = [*stream.text_stream]
        final = stream.get_final_message()
    assert "".join(texts) == text_of(final) == "w0 w1 w2 "
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 3)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_used(client: Anthropic, streamed: bool) -> None:
    """Arguments are valid; after the result there is text."""
    if streamed:
        with client.messages.stream(model="sim", max_tokens=99, messages=[QUESTION], tools=[TOOL]) as stream:
            called: anthropic.types.Message = stream.get_final_message()
    else:
        called = client.messages.create(model="sim", max_tokens=99, messages=[QUESTION], tools=[TOOL])
    (call,) = called.content
    assert call.type == "tool_use"
    assert (call.name, call.input, called.stop_reason) == ("f", {"a": 1}, "tool_use")
    asked: list[MessageParam] = [
        QUESTION,
        {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "7"}]},
    ]
    answer = client.messages.create(model="sim", max_tokens=99, messages=asked, tools=[TOOL])
    assert text_of(answer) == "w0 w1 w2 "


def test_a_schema(client: Anthropic) -> None:
    """`parse` returns an object of the class."""
    parsed = client.messages.parse(model="sim", max_tokens=99, messages=[QUESTION], output_format=Fields)
    assert parsed.parsed_output == Fields(a=1)


def test_a_picture(client: Anthropic, door: Door) -> None:
    """It reaches the model server."""
    seen: MessageParam = {
        "role": "user",
        "content": [
            {"type": "text", "text": "q", "cache_control": {"type": "ephemeral"}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
        ],
    }
    assert text_of(client.messages.create(model="vision", max_tokens=99, messages=[seen])) == "w0 w1 w2 "
    assert PIXEL.encode() in door.simulator.log[-1].body


def test_thinking(client: Anthropic) -> None:
    """It is a block before the text, streamed and not, and can be sent back."""
    answer = client.messages.create(
        model="thinker",
        max_tokens=2048,
        messages=[QUESTION],
        thinking={"type": "enabled", "budget_tokens": 1024},
    )
    with client.messages.stream(
        model="thinker", max_tokens=2048, messages=[QUESTION], thinking={"type": "enabled", "budget_tokens": 1024}
    ) as stream:
        streamed = stream.get_final_message()
    for each in (answer, streamed):
        assert [block.type for block in each.content] == ["thinking", "text"]
    asked: list[MessageParam] = [QUESTION, {"role": "assistant", "content": answer.content}, QUESTION]
    assert text_of(client.messages.create(model="thinker", max_tokens=99, messages=asked)) == "w0 w1 w2 "


def test_how_answers_end(client: Anthropic) -> None:
    """By the limit, and by a stop sequence."""
    short = client.messages.create(model="sim", max_tokens=2, messages=[QUESTION])
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2)
    stopped = client.messages.create(model="sim", max_tokens=99, messages=[QUESTION], stop_sequences=["w2"])
    assert text_of(stopped) == "w0 w1 "


def test_counted_tokens(client: Anthropic) -> None:
    assert client.messages.count_tokens(model="sim", messages=[QUESTION]).input_tokens > 0


def test_a_model_that_nobody_has(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="none", max_tokens=99, messages=[QUESTION])


def test_a_key_that_nobody_has(client: Anthropic) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(model="sim", max_tokens=99, messages=[QUESTION])


def test_a_role_that_is_full(client: Anthropic, door: Door) -> None:
    """One request is running, which is all that the role may have."""
    door.simulator.faults.append(FaultScript(hold_after=1))
    with client.messages.create(model=FULL, max_tokens=99, messages=[QUESTION], stream=True) as running:
        assert any(event.type == "content_block_delta" for event in running)
        with pytest.raises(anthropic.RateLimitError) as refused:
            client.messages.create(model=FULL, max_tokens=99, messages=[QUESTION])
        assert float(refused.value.response.headers["retry-after"]) >= 1
        door.simulator.release()
        assert [event.type for event in running][-1] == "message_stop"


def test_an_answer_that_breaks_off(client: Anthropic, door: Door) -> None:
    """The error comes after the text so far, as an exception."""
    door.simulator.faults.append(FaultScript(cut_after=2))
    running = client.messages.create(
        model="sim",
        max_tokens=99,
        messages=[QUESTION],
        stream=True,
        output_config={"format": {"type": "json_schema", "schema": SCHEMA}},
    )
    assert any(event.type == "content_block_delta" for event in running)
    with pytest.raises(anthropic.APIStatusError):
        list(running)


async def test_a_client_that_leaves(client: Anthropic, door: Door) -> None:
    """Its request is cancelled: the model server's connection is closed."""
    door.simulator.faults.append(FaultScript(hold_after=1))
    stream = client.messages.create(model="sim", max_tokens=99, messages=[QUESTION], stream=True)
    assert any(event.type == "content_block_delta" for event in stream)
    index = door.simulator.log[-1].index
    stream.close()
    await until(lambda: door.ended(index) == "disconnected")
