"""Functions in namespaces, as Codex offers them: models know none."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseFunctionToolCall
from tests.gateways import served
from tests.unit.producer.gateway.responses.test_foreground import sdk

from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta
from tokenlane.routing.contract.requests import ChatRequest

CLOSE: Any = {"type": "function", "name": "close", "description": "close it", "parameters": {}}
AGENTS: Any = {"type": "namespace", "name": "agents", "description": "sub-agents", "tools": [CLOSE]}
ITEM = {"type": "function_call", "call_id": "call_a", "name": "close", "namespace": "agents", "arguments": "{}"}


def names(request: ChatRequest) -> list[Any]:
    return [tool["function"]["name"] for tool in request.tools or () if isinstance(tool["function"], dict)]


def calling(request: ChatRequest) -> list[TokenDelta]:
    """Call the first tool."""
    call = ToolCallDelta(index=0, id="call_a", name=names(request)[0], arguments="{}")
    return [TokenDelta(tool_calls=(call,)), TokenDelta(finish_reason="tool_calls")]


@pytest.mark.parametrize("choice", ["auto", {"type": "function", "name": "close", "namespace": "agents"}])
async def test_a_call_names_its_namespace(choice: Any) -> None:
    """Two functions of the same name are two to the model, and the one that it calls comes back as it was offered."""
    async with MockPool(calling) as pool, served(pool) as url, sdk(url) as client:
        async with client.responses.stream(model="m", input="hi", tools=[AGENTS, CLOSE], tool_choice=choice) as stream:
            done = [event async for event in stream if event.type == "response.function_call_arguments.done"]
            answer = await stream.get_final_response()
        (call,) = answer.output
        assert isinstance(call, ResponseFunctionToolCall)
        assert (call.name, call.namespace) == ("close", "agents")
        assert [event.model_dump()["name"] for event in done] == ["close"]
        assert len({*names(pool.requests[0])}) == 2


async def test_the_call_goes_back_as_the_model_made_it() -> None:
    async with MockPool(calling) as pool, served(pool) as url, sdk(url) as client:
        output = {"type": "function_call_output", "call_id": "call_a", "output": "closed"}
        history: Any = [{"role": "user", "content": "hi"}, ITEM, output]
        await client.responses.create(model="m", input=history, tools=[AGENTS])
        (request,) = pool.requests
        calls = request.messages[1].tool_calls
        assert calls is not None
        assert isinstance(calls[0]["function"], dict)
        assert calls[0]["function"]["name"] == names(request)[0]
