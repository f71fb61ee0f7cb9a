"""The checks of Open Responses' public suite, made anew from its specification, and OpenAI's own types of events."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, ConfigDict, TypeAdapter
from tests.gateways import served
from tests.unit.producer.gateway.responses.test_foreground import WEATHER, calling

from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.requests import ChatRequest

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Usage(_Strict):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens_details: dict[str, int]


class Resource(_Strict):
    """A response: the fields that the specification requires, with their types."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: str
    incomplete_details: dict[str, str] | None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: list[dict[str, Any]]
    error: dict[str, str] | None
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: dict[str, Any]
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: dict[str, Any] | None
    usage: _Usage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None


def user(content: object, role: str = "user") -> dict[str, object]:
    """A message as an item."""
    return {"type": "message", "role": role, "content": content}


_ASKS_WEATHER = {"input": [user("What's the weather like in San Francisco?")], "tools": [WEATHER]}
CHECKS: dict[str, dict[str, Any]] = {
    "basic": {"input": [user("Say hello in exactly 3 words.")]},
    "system prompt": {"input": [user("You are a pirate.", "system"), user("Say hello.")]},
    "tools": _ASKS_WEATHER,
    "image": {"input": [user([{"type": "input_text", "text": "What?"}, {"type": "input_image", "image_url": _IMAGE}])]},
    "many turns": {"input": [user("I am Alice."), user("Hello Alice!", "assistant"), user("Who am I?")]},
}


def answers(request: ChatRequest) -> list[TokenDelta]:
    """What a model answers: a call if it has tools."""
    return calling(request) if request.tools else [TokenDelta(text="Hello "), TokenDelta(text="there")]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("name", CHECKS)
async def test_compliance(name: str, is_streamed: bool) -> None:
    """The response has every field that the specification requires, output, and the status `completed`."""
    body = {"model": "m", "stream": is_streamed, **CHECKS[name]}
    async with MockPool(answers) as pool, served(pool) as url, httpx.AsyncClient() as client:
        response = await client.post(f"{url}/v1/responses", json=body)
        assert response.status_code == 200
        events: list[dict[str, Any]] = []
        if is_streamed:
            lines = [line for line in response.text.split("\n") if line.startswith(("event: ", "data: "))]
            events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
            assert [line.removeprefix("event: ") for line in lines[0::2]] == [event["type"] for event in events]
            for event in events:
                _EVENT.validate_python(event)
            document = events[-1]["response"]
        else:
            document = response.json()
        resource = Resource.model_validate(document)
        assert resource.status == "completed"
        kinds = [item["type"] for item in resource.output]
        assert kinds == (["reasoning", "message", "function_call", "function_call"] if "tools" in body else ["message"])
        if events and "tools" in body:
            added = [event["item"]["type"] for event in events if event["type"] == "response.output_item.added"]
            done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
            assert added == kinds
            assert done == resource.output
            whole = [event["arguments"] for event in events if event["type"] == "response.function_call_arguments.done"]
            assert whole == [item["arguments"] for item in resource.output if item["type"] == "function_call"]
