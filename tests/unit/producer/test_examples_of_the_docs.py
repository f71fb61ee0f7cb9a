"""The examples of the agents' documentation that need no pool do what they show."""

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
from tests.hooks import examples as filters
from tests.repository import ROOT

from tokenlane.producer import (
    BadRequest,
    Client,
    DeadlineExceeded,
    Interrupted,
    LlmError,
    PoolUnavailable,
    QueueFull,
    RequestCancelled,
    TokenDelta,
    ToolCallDelta,
)
from tokenlane.producer.testing import Failover, MockPool, Restart
from tokenlane.routing.contract.requests import ChatRequest

QUESTION = {"role": "user", "content": "Primes?"}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


@pytest.mark.parametrize(
    ("heading", "system"), [("Conversations", ["Answer briefly."]), ("Without a conversation", [])]
)
async def test_the_conversation_goes_on(heading: str, system: list[str]) -> None:
    """The second question is asked with the first answer before it."""
    async with MockPool(lambda request: "7") as pool, pool.client() as client:
        await run_example(examples_of("conversations")[heading][0], client=client)
        sent = [message.content for message in pool.requests[1].messages]
        assert sent == [*system, "Name a prime.", "7", "A larger one."]


async def test_a_question_interrupts_another() -> None:
    """The first answer is cancelled, and its question is taken back."""
    async with MockPool(lambda request: "7") as pool, pool.client() as client:
        (code,) = examples_of("conversations")["Two questions at once"]
        names = await run_example(code, client=client, asyncio=asyncio)
    assert isinstance(names["cancelled"], RequestCancelled)
    assert [message.content for message in names["chat"].messages] == ["Only their definition.", "7"]


async def test_a_conversation_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on from the file, and its copy has all of it."""
    monkeypatch.chdir(tmp_path)
    async with MockPool(lambda request: "Ada.") as pool, pool.client() as client:
        names = await run_example(examples_of("conversations")["Keep a conversation"][0], client=client)
    assert names["copy"].messages == names["later"].messages
    assert len(names["copy"].messages) == 4


async def test_a_begun_answer_is_continued() -> None:
    """The option is the request's."""
    async with MockPool(lambda request: " 2, 3 and 5.") as pool, pool.client() as client:
        await run_example(
            examples_of("conversations")["Continue an answer"][0],
            client=client,
            question=QUESTION,
        )
        assert pool.requests[0].continue_final


async def test_the_text_of_an_answer_begun_anew() -> None:
    """The example's text is that of the stream, whichever lane gave it."""
    pieces: list[str | Failover | Restart] = ["1, 2", Failover(), ", 3", Restart(), "2, 3", Failover(), ", 5"]
    async with MockPool(lambda _: pieces) as pool, pool.client() as client:
        (code,) = examples_of("agents")["Answers that another lane continues"]
        await run_example(code + "    assert text == stream.text == '2, 3, 5'\n", client=client)
    assert pool.requests[0].on_interrupt == "restart"


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
        said = await names["ask"](client, "The weather?", {"weather": lambda city: f"rain in {city}"}, TOOLS)
    assert said == "It is rain in Paris."
    asked = pool.requests[-1].messages
    assert [message.role for message in asked] == ["user", "assistant", "tool", "assistant", "tool"]
    assert [message.reasoning_content for message in asked[1::2]] == ["I need the weather."] * 2
    assert [message.tool_call_id for message in asked[2::2]] == ["c0", "c1"]
    assert str(asked[2].content).startswith("TypeError")


async def test_the_loop_of_tools_is_bounded() -> None:
    """A model that calls tools without end does not keep the agent for ever."""
    (code,) = examples_of("conversations")["Tools"]
    names: dict[str, Any] = {"json": json}
    exec(code, names)
    call = TokenDelta(tool_calls=(ToolCallDelta(index=0, id="c", name="weather", arguments="{}"),))
    async with MockPool(lambda request: [call]) as pool, pool.client() as client:
        with pytest.raises(RuntimeError):
            await names["ask"](client, "The weather?", {"weather": lambda: "rain"}, TOOLS, turns=3)
    assert len(pool.requests) == 3


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


async def test_the_tests_of_an_agent(capsys: pytest.CaptureFixture[str]) -> None:
    """Each passes, and the pool holds the texts to embed."""
    names: dict[str, Any] = {}
    for heading in ("Test an agent", "Handlers"):
        (code,) = examples_of("testing")[heading]
        exec(code, names)
    tests = [name for name in names if name.startswith("test_")]
    assert len(tests) == 5
    for name in tests:
        await names[name]()
    await run_example(examples_of("testing")["Embeddings"][0], MockPool=MockPool)
    assert "['a kitten', 'a young cat']" in capsys.readouterr().out


async def test_hooks_of_an_agent() -> None:
    """The client of the page has the hooks of the file, and the functions on the page are those of the file."""
    blocks = examples_of("hooks")
    (code,) = blocks.pop("In an agent")
    async with MockPool(lambda request: f"sk-{'a' * 20}") as pool:
        names = await run_example(code, Client=pool.client, filters=filters())
    assert names["answer"].text == "***"
    assert [message.role for message in pool.requests[0].messages] == ["system", "user"]
    file = (ROOT / "docs" / "examples" / "filters.py").read_text(encoding="utf-8")
    assert [code for codes in blocks.values() for code in codes if code not in file] == []


def whole_agent() -> dict[str, Any]:
    """The names of the agent that handles errors."""
    (code,) = examples_of("failures")["A whole agent"]
    names: dict[str, Any] = {"__name__": "agent"}
    exec(code, names)
    return names


async def test_an_agent_that_handles_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """It asks again after an error that may pass, and gives up after the deadline or the last try."""
    largest_city = whole_agent()["largest_city"]
    tokyo = '{"name": "Tokyo", "people": 14000000}'
    answers: list[str | LlmError] = []

    def model(request: ChatRequest) -> Iterator[str]:
        answer = answers.pop(0)
        if isinstance(answer, Interrupted):
            yield "To"
        if isinstance(answer, LlmError):
            raise answer
        yield answer

    full, away = QueueFull(retry_after_s=0.001), PoolUnavailable(retry_after_s=0.001)
    async with MockPool(model) as pool, pool.client() as client:
        first_answers: list[list[str | LlmError]] = [[full, away], [Interrupted(), "It is Tokyo."]]
        for first in first_answers:
            answers[:] = [*first, tokyo]
            assert (await largest_city(client, "Japan")).name == "Tokyo"
        for all_answers in ([DeadlineExceeded("the pool was busy")], [full, full, full]):
            answers[:] = all_answers
            assert await largest_city(client, "Japan") is None
        answers[:] = [BadRequest()]
        with pytest.raises(BadRequest):
            await largest_city(client, "Japan")
    shown = capsys.readouterr().err
    assert all(text in shown for text in ("after: To\n", "It is Tokyo.", "the pool was busy"))


async def test_an_agent_without_a_pool() -> None:
    """It ends with the error's message."""
    names = whole_agent()
    names["Client"] = lambda: Client("redis://127.0.0.1:1")
    with pytest.raises(SystemExit, match=r"127\.0\.0\.1:1"):
        await names["main"]()
