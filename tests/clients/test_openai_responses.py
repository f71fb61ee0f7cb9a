"""OpenAI's own client and Responses."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types.responses import (
    EasyInputMessageParam,
    FunctionToolParam,
    ResponseFunctionToolCall,
    ResponseInputItemParam,
)
from pydantic import BaseModel
from tests.clients.behind import FULL, Door
from tests.waiting import until

from tokenlane.benches.simulator.fault_script import FaultScript

TOOL: FunctionToolParam = {
    "type": "function",
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "strict": True,
}
QUESTION: EasyInputMessageParam = {"role": "user", "content": "q"}
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
    answer = client.responses.create(model="sim", input="q", instructions="Be brief.", store=False)
    assert (answer.output_text, answer.status, answer.model) == ("w0 w1 w2 ", "completed", "sim")
    assert answer.usage is not None
    assert (answer.usage.output_tokens, answer.usage.total_tokens) == (3, 3 + answer.usage.input_tokens)


def test_a_streamed_answer(client: OpenAI) -> None:
    """Events are numbered, upwards, and build up the answer that the last one has."""
    with client.responses.stream(model="sim", input="q", store=False) as stream:
        events = [*stream]
        final = stream.get_final_response()
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    assert events[0].type == "response.created"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "w0 w1 w2 "
    assert (final.output_text, final.status) == ("w0 w1 w2 ", "completed")
    assert final.usage is not None
    assert final.usage.output_tokens == 3


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_called_and_its_result_used(client: OpenAI, streamed: bool) -> None:
    """Arguments are valid; after the result there is text."""
    if streamed:
        with client.responses.stream(model="sim", input="q", tools=[TOOL], store=False) as stream:
            called: list[object] = [*stream.get_final_response().output]
    else:
        called = [*client.responses.create(model="sim", input="q", tools=[TOOL], store=False).output]
    (call,) = called
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, json.loads(call.arguments)) == ("f", {"a": 1})
    asked: list[ResponseInputItemParam] = [
        QUESTION,
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "7"},
    ]
    answer = client.responses.create(model="sim", input=asked, tools=[TOOL], store=False)
    assert answer.output_text == "w0 w1 w2 "


def test_a_schema(client: OpenAI) -> None:
    """`parse` returns an object of the class."""
    assert client.responses.parse(model="sim", input="q", text_format=Fields, store=False).output_parsed == Fields(a=1)


def test_a_picture(client: OpenAI, door: Door) -> None:
    """It reaches the model server."""
    url = f"data:image/png;base64,{PIXEL}"
    answer = client.responses.create(
        model="vision",
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "q"},
                    {"type": "input_image", "image_url": url, "detail": "auto"},
                ],
            }
        ],
        store=False,
    )
    assert answer.output_text == "w0 w1 w2 "
    assert PIXEL.encode() in door.simulator.log[-1].body


def test_reasoning(client: OpenAI) -> None:
    """It is an item before the message, streamed and not."""
    answer = client.responses.create(model="thinker", input="q", store=False)
    with client.responses.stream(model="thinker", input="q", store=False) as stream:
        streamed = stream.get_final_response()
    for each in (answer, streamed):
        assert [item.type for item in each.output] == ["reasoning", "message"]
        assert each.output_text == "w0 w1 w2 "


def test_a_limit(client: OpenAI, door: Door) -> None:
    """The answer is incomplete, and says why."""
    door.simulator.faults.append(FaultScript(tokens=40))
    answer = client.responses.create(model="sim", input="q", max_output_tokens=16, store=False)
    assert answer.incomplete_details is not None
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_model_that_nobody_has(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="none", input="q", store=False)


def test_a_key_that_nobody_has(client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").responses.create(model="sim", input="q", store=False)


def test_an_answer_that_is_not_stored(client: OpenAI) -> None:
    """A request that names it is refused by the field."""
    with pytest.raises(openai.APIStatusError) as refused:
        client.responses.create(model="sim", input="q", previous_response_id="resp_1", store=False)
    assert (refused.value.status_code in (400, 404), refused.value.param) == (True, "previous_response_id")


def test_a_role_that_is_full(client: OpenAI, door: Door) -> None:
    """One request is running, which is all that the role may have."""
    door.simulator.faults.append(FaultScript(hold_after=1))
    with client.responses.create(model=FULL, input="q", stream=True, store=False) as running:
        assert any(event.type == "response.output_text.delta" for event in running)
        with pytest.raises(openai.RateLimitError) as refused:
            client.responses.create(model=FULL, input="q", store=False)
        assert float(refused.value.response.headers["retry-after"]) >= 1
        door.simulator.release()
        assert [event.type for event in running][-1] == "response.completed"


def test_an_answer_that_breaks_off(client: OpenAI, door: Door) -> None:
    """It ends as failed, and never as complete."""
    door.simulator.faults.append(FaultScript(cut_after=2))
    schema = {"format": {"type": "json_schema", "name": "n", "schema": TOOL["parameters"]}}
    running = client.responses.create(model="sim", input="q", stream=True, store=False, extra_body={"text": schema})
    types = [event.type for event in running]
    assert types[-1] in ("response.failed", "error")
    assert "response.completed" not in types


async def test_a_client_that_leaves(client: OpenAI, door: Door) -> None:
    """Its request is cancelled: the model server's connection is closed."""
    door.simulator.faults.append(FaultScript(hold_after=1))
    stream = client.responses.create(model="sim", input="q", stream=True, store=False)
    assert any(event.type == "response.output_text.delta" for event in stream)
    index = door.simulator.log[-1].index
    stream.close()
    await until(lambda: door.ended(index) == "disconnected")
