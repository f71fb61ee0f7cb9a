"""The examples of conversations in the agents' documentation do what they show."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.documents import examples_of, run_example

from tokenlane.producer import BadRequest, LlmError, QueueFull, TokenDelta, ToolCallDelta
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.requests import ChatRequest

QUESTION = {"role": "user", "content": "Primes?"}


async def test_the_conversation_goes_on() -> None:
    """The second question is asked with the first answer before it."""
    async with MockPool(lambda request: "7") as pool, pool.client() as client:
        await run_example(examples_of("conversations")["Conversations"][0], client=client)
        assert [message.content for message in pool.requests[1].messages] == ["Name a prime.", "7", "A larger one."]


async def test_a_begun_answer_is_continued() -> None:
    """The option is the request's."""
    async with MockPool(lambda request: " 2, 3 and 5.") as pool, pool.client() as client:
        await run_example(
            examples_of("conversations")["Continue an answer"][0],
            client=client,
            question=QUESTION,
        )
        assert pool.requests[0].continue_final


async def test_a_picture_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file arrives as a data URL."""
    monkeypatch.chdir(tmp_path)
    Path("cat.png").write_bytes(b"cat")
    async with MockPool(lambda request: "a cat") as pool, pool.client() as client:
        await run_example(examples_of("conversations")["Pictures"][0], client=client, base64=base64, Path=Path)
        content = pool.requests[0].messages[0].content
        assert isinstance(content, list)
        assert content[1]["image_url"] == {"url": "data:image/png;base64,Y2F0"}


def model(request: ChatRequest) -> Iterator[str | TokenDelta]:
    """Calls a function wrongly, then rightly, then says what it was told."""
    results = [str(message.content) for message in request.messages if message.role == "tool"]
    if len(results) == 2:
        yield f"It is {results[-1]}."
        return
    yield TokenDelta(reasoning="I need the weather.")
    arguments = '{"city": "Paris"}' if results else '{"town": "Paris"}'
    yield TokenDelta(tool_calls=(ToolCallDelta(index=0, id=f"c{len(results)}", name="weather", arguments=arguments),))


async def test_the_loop_of_tools() -> None:
    """Fifteen lines at most: calls are made, failures told, turns with their reasoning and calls sent again."""
    (code,) = examples_of("conversations")["Tools"]
    assert len(code.splitlines()) <= 15
    names: dict[str, Any] = {"json": json}
    exec(code, names)
    async with MockPool(model) as pool, pool.client() as client:
        tools = [{"type": "function", "function": {"name": "weather"}}]
        said = await names["ask"](client, "The weather?", {"weather": lambda city: f"rain in {city}"}, tools)
    assert said == "It is rain in Paris."
    asked = pool.requests[-1].messages
    assert [message.role for message in asked] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [message.reasoning_content for message in asked[1::2]] == ["I need the weather."] * 2
    assert [message.tool_call_id for message in asked[2::2]] == ["c0", "c1"]
    assert str(asked[2].content).startswith("TypeError")


async def test_a_structured_answer() -> None:
    """The answer is an object of the class."""
    (code,) = examples_of("conversations")["Structured answers"]
    async with MockPool(lambda request: '{"name": "Tokyo", "people": 14000000}') as pool, pool.client() as client:
        names = await run_example(code, client=client, BaseModel=BaseModel)
    assert names["answer"].parsed.people == 14_000_000


async def test_sending_again() -> None:
    """A request that a full queue refuses is sent again; an error that cannot pass is raised at once."""
    (code,) = examples_of("errors")["Send again"]
    names: dict[str, Any] = {"asyncio": asyncio, "LlmError": LlmError}
    exec(code, names)
    refusals = [QueueFull(retry_after_s=0.001), BadRequest("wrong")]

    def answer(request: ChatRequest) -> str:
        if refusals:
            raise refusals.pop(0)
        return "7"

    async with MockPool(answer) as pool, pool.client() as client:
        with pytest.raises(BadRequest):
            await names["complete"](client, "Name a prime.")
        assert (await names["complete"](client, "Name a prime.")).text == "7"
    assert len(pool.requests) == 3
