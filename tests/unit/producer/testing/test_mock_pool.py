"""Agents tested without a server, and answers in the form of a model."""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext, suppress
from typing import Any, assert_type, cast

import pytest
from pydantic import BaseModel

from tokenlane.producer import (
    Answer,
    BadRequest,
    ChatStream,
    DeadlineExceeded,
    Interrupted,
    LlmError,
    Message,
    ProviderDown,
    QueueFull,
    RequestCancelled,
    RequestLost,
    SchemaMismatch,
    TokenDelta,
    ToolCall,
    ToolCallDelta,
)
from tokenlane.producer.testing import EmbedHandler, Failover, Handler, MockPool, Restart
from tokenlane.routing.contract.requests import ChatRequest, EmbedRequest
from tokenlane.routing.contract.wire import new_id


class City(BaseModel):
    """What is asked for."""

    name: str
    people: int = 0


async def test_text_and_pieces_are_streamed() -> None:
    """A handler's text is one delta, an iterable's pieces are one each; the request is what the agent asked."""

    def handler(request: ChatRequest) -> str | list[str | TokenDelta]:
        return "whole" if request.max_tokens == 1 else ["a", TokenDelta(reasoning="r"), "b"]

    async with MockPool(handler) as pool, pool.client(agent="tester") as client:
        assert (await client.complete("one", role="planner", max_tokens=1)).text == "whole"
        async with client.chat("two", role="coder") as stream:
            assert [(delta.position, delta.text) async for delta in stream] == [
                *((0, "a"), (1, ""), (2, "b")),
                (3, ""),
            ]
            answer = await stream.answer()
    assert (answer.text, answer.reasoning, answer.usage.completion_tokens) == ("ab", "r", 3)
    assert [(request.role, request.messages[0].content) for request in pool.requests] == [
        ("planner", "one"),
        ("coder", "two"),
    ]


@pytest.mark.parametrize("error", [QueueFull(retry_after_s=2.0), BadRequest("no"), LlmError("odd")])
async def test_errors_are_raised_in_the_agent(error: LlmError) -> None:
    """What the handler raises of the tree of errors, the agent is raised; other requests are not troubled."""

    def handler(request: ChatRequest) -> str:
        if request.role == "bad":
            raise error
        return "fine"

    async with MockPool(handler) as pool, pool.client() as client:
        with pytest.raises(type(error)) as raised:
            await client.complete("x", role="bad")
        assert raised.value is error
        assert (await client.complete("x", role="good")).text == "fine"


async def test_an_answer_that_breaks_off() -> None:
    """An error after some pieces is Interrupted, as with a real pool."""

    def handler(request: ChatRequest) -> Iterator[str]:
        yield "half"
        raise ProviderDown("gone")

    async with MockPool(handler) as pool, pool.client() as client:
        with pytest.raises(Interrupted) as broken:
            await client.complete("x", role="planner")
    assert broken.value.partial == "half"


async def test_another_lane_continues_an_answer() -> None:
    """After a failover, deltas carry the new attempt and lane, positions count on, and the text has no gap."""

    def handler(request: ChatRequest) -> Iterator[str | Failover]:
        yield from ("He", Failover("gpu1"), "llo", Failover("gpu2"), "!")

    async with MockPool(handler) as pool, pool.client() as client:
        async with client.chat("x", role="planner") as stream:
            got = [(delta.attempt, delta.lane, delta.position, delta.text) async for delta in stream]
            answer = await stream.answer()
    assert got == [(1, "", 0, "He"), (2, "gpu1", 1, "llo"), (3, "gpu2", 2, "!"), (3, "gpu2", 3, "")]
    assert (answer.text, answer.lane, answer.usage.attempts) == ("Hello!", "gpu2", 3)
    assert answer.usage.completion_tokens == 3


async def test_an_answer_that_begins_anew() -> None:
    """The first delta of the new answer says so, and nothing of the void answer is left, not even its tool call."""
    void = TokenDelta(tool_calls=(ToolCallDelta(id="1", name="f"),))

    async def handler(request: ChatRequest) -> AsyncIterator[str | TokenDelta | Restart]:
        for piece in ("old", void, Restart("gpu1"), "new", "er"):
            yield piece

    async with MockPool(handler) as pool, pool.client() as client:
        async with client.chat("x", role="planner", on_interrupt="restart") as stream:
            got = [(delta.position, delta.text, delta.restarted) async for delta in stream]
            answer = await stream.answer()
        complete = await client.complete("x", role="planner", on_interrupt="restart")
    assert got == [(0, "old", False), (1, "", False), (0, "new", True), (1, "er", False), (2, "", False)]
    assert (answer.text, answer.tool_calls, answer.finish_reason, answer.lane) == ("newer", (), "stop", "gpu1")
    assert (answer.usage.attempts, answer.usage.completion_tokens, complete.text) == (2, 2, "newer")


async def test_an_answer_begins_anew_only_where_the_agent_allows_it() -> None:
    """Otherwise the agent gets the part of the answer that it has, as with a real pool."""
    async with MockPool(lambda _: ["old", Restart(), "new"]) as pool, pool.client() as client:
        with pytest.raises(Interrupted) as broken:
            await client.complete("x", role="planner")
    assert broken.value.partial == "old"


async def test_cancelling_stops_the_handler() -> None:
    """A stream that is left or cancelled takes no more pieces, and there is nothing to attach to."""
    taken: list[int] = []

    def handler(request: ChatRequest) -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield str(number)

    async with MockPool(handler) as pool, pool.client() as client:
        async with client.chat("x", role="planner") as stream:
            await anext(stream)
        async with client.chat("x", role="planner") as stream:
            await anext(stream)
            await client.cancel(stream.request_id)
            with pytest.raises(RequestCancelled):
                await stream.answer()
        with pytest.raises(RequestLost):
            await client.attach(stream.request_id).__aenter__()
    assert len(taken) < 10


async def test_cancelling_says_whether_it_is_cancelled() -> None:
    """As with a real pool: true of what runs or was cancelled, whoever asked it; false of an unknown or ended one."""

    async def handler(request: ChatRequest) -> str:
        return "done" if request.role == "quick" else await asyncio.Future()

    async with MockPool(handler) as pool, pool.client() as client, pool.client() as other:
        assert await client.cancel(new_id()) is False
        answer = await client.complete("x", role="quick")
        assert await client.cancel(answer.request_id) is False
        async with client.chat("x", role="planner") as stream:
            assert [await one.cancel(stream.request_id) for one in (other, client)] == [True, True]
            with pytest.raises(RequestCancelled):
                await stream.answer()


async def endless(request: ChatRequest | EmbedRequest) -> str:
    """Waits for ever."""
    return await asyncio.Future()


async def endless_vectors(request: EmbedRequest) -> list[list[float]]:
    return [[1.0]] if await endless(request) else []


async def endless_pieces(request: ChatRequest) -> AsyncIterator[str]:
    while True:
        yield "a"


def endless_plain_pieces(request: ChatRequest) -> Iterator[str]:
    while True:
        yield "a"


@pytest.mark.parametrize("handler", [endless, endless_pieces, endless_plain_pieces])
async def test_the_time_to_live_is_kept(handler: Handler) -> None:
    """A handler that never ends is broken off when the request's time is over, with a real pool's error."""
    async with MockPool(handler, embed=endless_vectors) as pool, pool.client() as client:
        with pytest.raises(DeadlineExceeded):
            await client.complete("x", role="planner", time_to_live_ms=50)
        with pytest.raises(DeadlineExceeded):
            await client.embed("x", role="indexer", time_to_live_ms=50)


async def test_a_handler_may_be_cancelled() -> None:
    """One that ends as cancelled, without having said so, cancels its request and no more."""

    def handler(request: ChatRequest) -> str:
        if request.role == "bad":
            raise asyncio.CancelledError
        return "fine"

    async with MockPool(handler) as pool, pool.client() as client:
        with pytest.raises(RequestCancelled):
            await client.complete("x", role="bad")
        assert (await client.complete("x", role="good")).text == "fine"


async def test_handlers_may_be_asynchronous() -> None:
    """Coroutine functions and async generators answer as plain ones do, with text, pieces, vectors and errors."""

    async def whole(request: ChatRequest) -> str:
        await asyncio.sleep(0)
        return "whole"

    async def listed(request: ChatRequest) -> list[str]:
        return ["a", "b"]

    async def pieces(request: ChatRequest) -> AsyncIterator[str | TokenDelta]:
        yield "a"
        await asyncio.sleep(0)
        yield TokenDelta(text="b")
        if request.role == "broken":
            raise ProviderDown("gone")

    async def vectors(request: EmbedRequest) -> list[list[float]]:
        return [[0.0, 1.0] for _ in request.inputs]

    handlers: list[tuple[Handler, str]] = [(whole, "whole"), (listed, "ab"), (pieces, "ab")]
    for handler, text in handlers:
        async with MockPool(handler, embed=vectors) as pool, pool.client() as client:
            assert (await client.complete("x", role="planner")).text == text
            assert list((await client.embed("x", role="indexer")).vector) == [0.0, 1.0]
    async with MockPool(pieces) as pool, pool.client() as client:
        with pytest.raises(Interrupted) as broken:
            await client.complete("x", role="broken")
    assert broken.value.partial == "ab"


async def test_leaving_stops_an_asynchronous_handler() -> None:
    """What a handler awaits is broken off when nobody wants its answer any more."""
    stopped = asyncio.Event()

    async def handler(request: ChatRequest) -> AsyncIterator[str]:
        try:
            yield "a"
            await asyncio.Future()
        finally:
            stopped.set()

    async with MockPool(handler) as pool, pool.client() as client:
        async with client.chat("x", role="planner") as stream:
            await anext(stream)
        async with asyncio.timeout(10):
            await stopped.wait()


async def test_a_pool_that_is_not_entered() -> None:
    """Before and after its block a pool says how to enter it."""
    pool = MockPool()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"`async with MockPool"):
            await pool.client().__aenter__()
        async with pool, pool.client() as client:
            assert (await client.complete("x", role="planner")).text == ""


@pytest.mark.parametrize("forgiving", [False, True])
async def test_a_bug_in_the_handler_is_raised_from_the_block(forgiving: bool) -> None:
    """A failing assertion about the request is not lost, and comes as itself; also from an agent that goes on."""

    def handler(request: ChatRequest) -> str:
        raise ZeroDivisionError

    async def ask() -> None:
        async with MockPool(handler) as pool, pool.client() as client:
            with suppress(LlmError) if forgiving else nullcontext():
                await client.complete("x", role="planner")

    with pytest.raises(ZeroDivisionError):
        await ask()


class Odd:
    """An object that is no answer."""


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"text": "SECRET"}, "a dict"),
        (b"SECRET", "a bytes"),
        ({"SECRET"}, "a set"),
        (None, "None"),
        (7, "an int"),
        (Odd(), "an Odd"),
        (TokenDelta(text="SECRET"), "a TokenDelta"),
        (ToolCall(id="1", name="f"), "a ToolCall"),
        (Message(role="assistant", content="SECRET"), "a Message"),
    ],
)
async def test_a_handler_that_answers_with_something_else(answer: object, kind: str) -> None:
    """The block ends with a TypeError that names what the handler returned or yielded; nothing of it is quoted."""

    async def returning(request: ChatRequest) -> object:
        return answer

    async def yielding(request: ChatRequest) -> AsyncIterator[object]:
        yield "a"
        yield [answer] if isinstance(answer, TokenDelta) else answer

    def listing(request: ChatRequest) -> object:
        return ["a", [answer] if isinstance(answer, TokenDelta) else answer]

    for handler, verb in ((returning, "returned"), (yielding, "yielded"), (listing, "yielded")):
        expected = "a list" if verb == "yielded" and isinstance(answer, TokenDelta) else kind
        with pytest.raises(TypeError, match=rf"TokenDelta.*; .* {verb} {expected}$") as refused:
            async with MockPool(cast("Handler", handler)) as pool, pool.client() as client:
                await client.complete("x", role="planner")
        assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("result", "error", "fact"),
    [
        (None, TypeError, "None"),
        (7, TypeError, "an int"),
        ("SECRET", TypeError, "a str"),
        (b"SECRET", TypeError, "a bytes"),
        ({"SECRET": [1.0]}, TypeError, "a dict"),
        ([1.0, 2.0], TypeError, "a float"),
        (["SECRET", "b"], TypeError, "a str"),
        ([[1.0], None], TypeError, "None"),
        ([[1.0], ["SECRET"]], TypeError, "a str"),
        ([[1.0], [None]], TypeError, "None"),
        ([[1.0]], ValueError, "1 .* 2"),
        ([], ValueError, "0 .* 2"),
        ([[1.0]] * 3, ValueError, "3 .* 2"),
        ([[], []], ValueError, "empty"),
        ([[1.0], [1.0, 2.0]], ValueError, "1 and 2"),
        ([[1.0], [math.nan]], ValueError, "finite"),
        ([[1.0], [1e300]], ValueError, "finite"),
    ],
)
async def test_an_embed_handler_that_returns_something_else(result: object, error: type[Exception], fact: str) -> None:
    """The block ends with an error that names what is wrong with the vectors, and quotes none of them."""

    async def embed(request: EmbedRequest) -> object:
        return result

    with pytest.raises(error, match=rf"embed.*{fact}") as refused:
        async with MockPool(embed=cast("EmbedHandler", embed)) as pool, pool.client() as client:
            await client.embed(["a", "b"], role="indexer")
    assert "SECRET" not in str(refused.value)


async def test_vectors_may_be_arrays_and_whole_numbers() -> None:
    """An embed handler may return any iterable of iterables of numbers."""
    for vectors in ([[1, 0]], [array("d", [1, 0])], iter([iter([True, 0])]), ((1.0, 0),)):
        embed = cast("EmbedHandler", lambda _, vectors=vectors: vectors)
        async with MockPool(embed=embed) as pool, pool.client() as client:
            assert list((await client.embed("a", role="indexer")).vector) == [1.0, 0.0]


def test_a_handler_is_a_function() -> None:
    """A pool refuses to be made with a handler that cannot be called; the error names the argument."""
    with pytest.raises(TypeError, match=r"`handler`.* a str"):
        MockPool(cast("Handler", "SECRET"))
    with pytest.raises(TypeError, match=r"`embed`.* a list"):
        MockPool(embed=cast("EmbedHandler", [[1.0]]))


async def test_an_answer_has_a_finish_reason() -> None:
    """As from a real pool: the handler's; else `tool_calls` if it calls a tool, else `stop`."""
    call = TokenDelta(tool_calls=(ToolCallDelta(id="a", name="f", arguments="{}"),))
    answers: list[tuple[str | list[str | TokenDelta], str, int]] = [
        ("text", "stop", 2),
        (["a", "b"], "stop", 3),
        ([], "stop", 1),
        ([call], "tool_calls", 2),
        (["a", TokenDelta(finish_reason="length")], "length", 2),
    ]
    for words, reason, deltas in answers:
        async with MockPool(lambda _, words=words: words) as pool, pool.client() as client:  # type: ignore[misc] # loop
            async with client.chat("x", role="planner") as stream:
                assert len([delta async for delta in stream]) == deltas
                assert (await stream.answer()).finish_reason == reason


async def test_a_model_is_asked_for_and_filled() -> None:
    """A pydantic model goes out as its JSON schema and comes back as itself, from `complete` and from a stream."""
    async with MockPool(lambda _: ['{"name": "Bonn", ', '"people": 7}']) as pool, pool.client() as client:
        answer = await client.complete("x", role="planner", response_format=City)
        assert_type(answer, Answer[City])
        assert_type(answer.parsed, City | None)
        assert answer.parsed == City(name="Bonn", people=7)
        stream = client.chat("x", role="planner", response_format=City)
        assert_type(stream, ChatStream[City])
        async with stream:
            assert (await stream.answer()).parsed == answer.parsed
        plain = await client.complete("x", role="planner", response_format={"type": "json_object"})
        assert plain.parsed is None
    asked = pool.requests[0].response_format
    assert asked == {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}
    assert [request.response_format for request in pool.requests[1:]] == [asked, {"type": "json_object"}]


@pytest.mark.parametrize("text", ["SECRET", '{"name": "SECRET", "people": "SECRET"}', '{"SECRET": 1}', ""])
async def test_an_answer_that_does_not_fit(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is a typed error that keeps the text for the agent, and shows it nowhere."""
    caplog.set_level(logging.DEBUG)
    async with MockPool(lambda _: text) as pool, pool.client() as client:
        with pytest.raises(SchemaMismatch) as wrong:
            await client.complete("x", role="planner", response_format=City)
    assert wrong.value.text == text
    shown = [str(wrong.value), repr(wrong.value), caplog.text, *traceback.format_exception(wrong.value)]
    assert not [one for one in shown if "SECRET" in one]
    assert (wrong.value.__cause__, wrong.value.__context__) == (None, None)


async def test_an_answer_cut_off_says_so() -> None:
    """An answer that does not fit because it is too short says what to do."""
    cut = [TokenDelta(text='{"name'), TokenDelta(finish_reason="length")]
    async with MockPool(lambda _: cut) as pool, pool.client() as client:
        with pytest.raises(SchemaMismatch, match="max_tokens"):
            await client.complete("x", role="planner", response_format=City)


async def test_a_tool_call_is_no_mismatch() -> None:
    """An answer that calls a tool instead has nothing parsed."""
    call = [TokenDelta(tool_calls=(ToolCallDelta(id="a", name="f", arguments="{}"),), finish_reason="tool_calls")]
    async with MockPool(lambda _: call) as pool, pool.client() as client:
        answer = await client.complete("x", role="planner", response_format=City)
    assert (answer.parsed, answer.tool_calls[0].name) == (None, "f")
    await asyncio.sleep(0)


async def test_a_form_that_is_no_model() -> None:
    """Another class than a pydantic model is told, whatever it lacks."""
    async with MockPool(lambda request: "7") as pool, pool.client() as client:
        with pytest.raises(TypeError, match="response_format"):
            await client.complete("x", role="planner", response_format=int)  # type: ignore[type-var] # the point
        for form in ("json", City(name="Bonn"), list[City]):
            with pytest.raises(TypeError, match=r"response_format.*pydantic"):
                await client.complete("x", role="planner", response_format=cast("Any", form))


@pytest.mark.parametrize(("request_id", "after"), [(None, None), (b"0" * 32, None), ("no id", None), ("0" * 32, "1")])
async def test_what_is_no_place_in_an_answer_is_refused(request_id: str, after: int | None) -> None:
    """What no stream can have said is a ValueError, whatever its type."""
    async with MockPool() as pool, pool.client() as client:
        with pytest.raises(ValueError, match="request_id"):
            client.attach(request_id, after=after)


@pytest.mark.parametrize("agent", ["no name", "-x", "", 7])
async def test_an_agent_has_a_name(agent: str) -> None:
    """What cannot be part of a key is refused where a call names it, before anything is sent."""
    async with MockPool() as pool, pool.client() as client:
        with pytest.raises(ValueError, match=repr(agent)):
            client.chat("x", role="planner", agent=agent)
        with pytest.raises(ValueError, match=repr(agent)):
            await client.embed("x", role="planner", agent=agent)
    assert not pool.requests
    assert not pool.embed_requests


async def test_a_long_name_is_not_quoted_whole() -> None:
    """What an agent takes by mistake for a name may be a whole document."""
    async with MockPool() as pool, pool.client() as client:
        with pytest.raises(ValueError) as refused:
            client.chat("x", role="planner", agent="x" * 1_000_000)
    assert len(str(refused.value)) < 200
