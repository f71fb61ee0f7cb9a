"""Conversations with a pool in memory: what is asked, and what of it stays."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tokenlane.producer import (
    BadRequest,
    ContextTooLong,
    Conversation,
    ConversationBusy,
    ConversationOptions,
    ImagesNotAccepted,
    Interrupted,
    LlmError,
    Message,
    ProviderDown,
    RequestCancelled,
    SchemaMismatch,
    TokenDelta,
    ToolCallDelta,
)
from tokenlane.producer.testing import MockPool, Restart
from tokenlane.routing.contract.requests import ChatRequest

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "weather"}}]


def last(request: ChatRequest) -> str:
    content = request.messages[-1].content
    return content if isinstance(content, str) else "parts"


def echo(request: ChatRequest) -> str:
    """An answer that names the question."""
    return f"to {last(request)}"


class Held:
    """Answers that begin, and end when they are released; those to "fail" break off."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.released = asyncio.Event()

    def handler(self, request: ChatRequest) -> AsyncIterator[str | Restart]:
        return self._pieces(last(request))

    async def _pieces(self, question: str) -> AsyncIterator[str | Restart]:
        yield f"to {question}"
        self.begun.put_nowait(question)
        await self.released.wait()
        if question == "fail":
            yield Restart()
        yield "."


def texts(conversation: Conversation) -> list[str]:
    return [str(message.content) for message in conversation.messages]


async def test_the_messages_grow_with_each_answer() -> None:
    """However the stream is read: to its end, as an answer, or not at all but complete when its block is left."""
    async with MockPool(echo) as pool, pool.client(agent="a") as client:
        conversation = client.conversation(role="planner", id="c-7", system="Be brief.")
        async with conversation.ask("1") as stream:
            assert [delta.text async for delta in stream] == ["to 1", ""]
            assert texts(conversation) == ["Be brief.", "1", "to 1"]
        async with conversation.ask([{"type": "text", "text": "2"}], temperature=0.5) as stream:
            assert (await stream.answer()).text == stream.text
            assert len(conversation.messages) == 5
        async with conversation.ask({"role": "user", "content": "3"}) as stream:
            while stream.usage is None:
                await asyncio.sleep(0)
        assert texts(conversation)[-2:] == ["3", "to 3"]
    assert [len(request.messages) for request in pool.requests] == [2, 4, 6]
    assert {request.conversation for request in pool.requests} == {"c-7"}
    assert pool.requests[1].temperature == 0.5
    sent = [request.to_wire().partition(b'"messages":')[2] for request in pool.requests]
    beginnings = [text[: text.index(b"]")] for text in sent]
    assert sent[2].startswith(beginnings[0]), "the prefix is the same, byte for byte"
    assert "brief" not in repr(conversation)


@pytest.mark.parametrize("keep_partial", [False, True])
@pytest.mark.parametrize("end", ["leave", "cancel", "break off", "task cancelled"])
async def test_an_answer_that_is_not_complete(end: str, keep_partial: bool) -> None:
    """Its question is taken back, or stays with the text that had arrived. Either way the next question is asked."""
    held, question = Held(), "fail" if end == "break off" else "1"
    async with MockPool(held.handler) as pool, pool.client() as client:
        conversation = client.conversation(role="r", keep_partial=keep_partial)

        async def ask() -> None:
            async with conversation.ask(question) as stream:
                await anext(stream)
                await held.begun.get()
                if end == "cancel":
                    await stream.cancel()
                if end == "break off":
                    held.released.set()
                    with pytest.raises(Interrupted):
                        await stream.answer()
                if end == "task cancelled":
                    await asyncio.Event().wait()

        task = asyncio.create_task(ask())
        if end == "task cancelled":
            while not pool.requests or not held.begun.empty():
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() == (end == "task cancelled")
        kept = [question, f"to {question}"] if keep_partial else []
        assert texts(conversation) == kept
        held.released.set()
        await conversation.complete("2")
        assert texts(conversation) == [*kept, "2", "to 2."]


async def test_an_error_takes_the_question_back() -> None:
    """Also one while it is submitted; an answer that is complete but does not match its schema is kept."""

    class City(BaseModel):
        name: str

    def fail(request: ChatRequest) -> str:
        if last(request) == "fail":
            raise ProviderDown
        return "text"

    async with MockPool(fail) as pool, pool.client() as client:
        conversation = client.conversation(role="r")
        with pytest.raises(ProviderDown):
            await conversation.complete("fail")
        with pytest.raises(BadRequest):
            await conversation.complete("1", top_p=7)
        assert texts(conversation) == []
        with pytest.raises(SchemaMismatch):
            await conversation.complete("city", response_format=City)
        assert texts(conversation) == ["city", "text"]
        with pytest.raises(TypeError):
            conversation.ask("1", conversation="other")
        with pytest.raises(TypeError):
            conversation.ask("1", warmth=1)  # type: ignore[call-arg]  # that is the point


def calls_two(request: ChatRequest) -> Iterator[str | TokenDelta]:
    """Calls two tools, and then says what they returned."""
    results = [str(message.content) for message in request.messages if message.role == "tool"]
    if results:
        yield ", ".join(results)
        return
    for index in range(2):
        call = ToolCallDelta(index=index, id=f"c{index}", name="weather", arguments="{}")
        yield TokenDelta(tool_calls=(call,))


async def test_every_call_needs_its_result() -> None:
    """Before that no question is asked, and after it none is needed."""
    async with MockPool(calls_two) as pool, pool.client() as client:
        conversation = client.conversation(role="r")
        with pytest.raises(BadRequest):
            await conversation.complete()
        await conversation.complete("The weather?", tools=TOOLS)
        assert conversation.open_calls == ["c0", "c1"]
        with pytest.raises(ValueError, match="c0, c1"):
            conversation.add_tool_result("c2", "rain")
        conversation.add_tool_result("c1", "rain")
        with pytest.raises(ValueError):
            conversation.add_tool_result("c1", "rain")
        with pytest.raises(BadRequest):
            await conversation.complete("Well?")
        conversation.add_tool_result("c0", [{"type": "text", "text": "sun"}])
        assert (await conversation.complete(tools=TOOLS)).text.startswith("rain")
        assert [message.role for message in conversation.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert len(pool.requests) == 2


async def test_questions_wait_for_each_other() -> None:
    """They are asked in their order, each with the answers before."""
    async with MockPool(echo) as pool, pool.client() as client:
        conversation = client.conversation(role="r")
        await asyncio.gather(*(conversation.complete(number) for number in "12345"))
        assert texts(conversation)[::2] == list("12345")
    assert [len(request.messages) for request in pool.requests] == [1, 3, 5, 7, 9]


async def test_a_question_may_be_refused() -> None:
    """While another one is answered, and so are `load` and `clear`."""
    held = Held()
    async with MockPool(held.handler) as pool, pool.client() as client:
        conversation = client.conversation(role="r", on_busy="reject")
        first = asyncio.create_task(conversation.complete("1"))
        await held.begun.get()
        for refused in (conversation.complete("2"), conversation.clear(), conversation.load(conversation.save())):
            with pytest.raises(ConversationBusy):
                await refused
        held.released.set()
        assert (await first).text == "to 1."
        await conversation.complete("3")
        assert texts(conversation) == ["1", "to 1.", "3", "to 3."]


@pytest.mark.parametrize("keep_partial", [False, True])
async def test_a_question_may_interrupt(keep_partial: bool) -> None:
    """The answer that runs is cancelled, even if nobody reads it; its part is kept if partial answers are."""
    held = Held()
    async with MockPool(held.handler) as pool, pool.client() as client:
        conversation = client.conversation(role="r", on_busy="interrupt", keep_partial=keep_partial)
        async with conversation.ask("1") as stream:
            await held.begun.get()
            second = asyncio.create_task(conversation.complete("2"))
            assert await held.begun.get() == "2"
            held.released.set()
            assert (await second).text == "to 2."
            with pytest.raises(RequestCancelled):
                await stream.answer()
        assert texts(conversation) == [*(["1", "to 1"] if keep_partial else []), "2", "to 2."]


async def test_an_answer_that_nobody_read_is_not_interrupted_after_its_end() -> None:
    """It is complete, so it stays."""
    async with MockPool(echo) as pool, pool.client() as client:
        conversation = client.conversation(role="r", on_busy="interrupt")
        async with conversation.ask("1") as stream:
            while stream.usage is None:
                await asyncio.sleep(0)
            await conversation.complete("2")
        assert texts(conversation) == ["1", "to 1", "2", "to 2"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_stream_that_is_dropped_ends_its_turn() -> None:
    """The next question does not wait for ever."""
    held = Held()
    async with MockPool(held.handler) as pool, pool.client() as client:
        conversation = client.conversation(role="r")
        stream = conversation.ask("1")
        await stream.__aenter__()
        await held.begun.get()
        del stream
        gc.collect()
        held.released.set()
        await conversation.complete("2")
        assert texts(conversation) == ["2", "to 2."]


async def test_a_prompt_that_is_too_long_is_halved() -> None:
    """Until it fits or only the question is left; the messages stay."""

    def small(request: ChatRequest) -> str:
        if len(request.messages) > 4:
            raise ContextTooLong
        return echo(request)

    async with MockPool(echo) as pool, pool.client() as client:
        conversation = client.conversation(role="r", system="s")
        for number in range(8):
            await conversation.complete(str(number))
        pool.handler = small
        async with conversation.ask("8") as stream:
            assert "".join([delta.text async for delta in stream]) == "to 8"
            assert stream.request_id == pool.requests[-1].id
        sent = [str(message.content) for message in pool.requests[-1].messages]
        assert sent == ["s", "7", "to 7", "8"]
        assert len(conversation.messages) == 1 + 9 * 2
        assert conversation.left_out == 14
        pool.handler = lambda request: (_ for _ in ()).throw(ContextTooLong())
        with pytest.raises(ContextTooLong):
            await conversation.complete("9")
        asked = len(pool.requests)
        with pytest.raises(ContextTooLong):
            await conversation.complete("9", idempotency_key="k")
        assert len(pool.requests) == asked + 1, "a request that others may join is not sent in another form"
        assert texts(conversation)[-1] == "to 8"


async def test_an_estimate_keeps_the_prompt_within_the_limit() -> None:
    """The server is not asked with more."""
    async with MockPool(echo) as pool, pool.client() as client:
        conversation = client.conversation(role="r", system="s", max_input_tokens=500)
        for _ in range(12):
            await conversation.complete("q" * 200)
    lengths = [len(request.messages) for request in pool.requests]
    assert max(lengths) < 12
    assert len(conversation.messages) == 25
    assert all(request.messages[0].role == "system" for request in pool.requests)
    assert all(request.messages[1].role == "user" for request in pool.requests)


async def test_images_of_earlier_turns_are_left_out() -> None:
    """With a warning, and only from the request. An image in the question is the error."""

    def blind(request: ChatRequest) -> str:
        if b"image_url" in request.to_wire():
            raise ImagesNotAccepted(model="phi", lane="gpu0")
        return "no image"

    async with MockPool(echo) as pool, pool.client() as client:
        conversation = client.conversation(role="r")
        await conversation.complete([{"type": "text", "text": "What is this?"}, PICTURE])
        pool.handler = blind
        with pytest.warns(UserWarning, match="'phi' on lane 'gpu0'") as warned:
            assert (await conversation.complete("And now?")).text == "no image"
        assert [warning.filename for warning in warned] == [__file__]
        assert conversation.messages[0].content == [{"type": "text", "text": "What is this?"}, PICTURE]
        with pytest.raises(ImagesNotAccepted):
            await conversation.complete([PICTURE])
        pool.handler = echo
        await conversation.complete("With eyes?")
        assert b"image_url" in pool.requests[-1].to_wire()


async def test_a_fork_and_a_copy_go_their_own_way() -> None:
    """With everything that was said before, and what is no longer sent."""
    async with MockPool(echo) as pool, pool.client() as client:
        conversation = client.conversation(role="r", system="s", max_input_tokens=60)
        for number in "123":
            await conversation.complete(number * 40)
        fork = await conversation.fork()
        copy = client.conversation(role="other", system="t")
        await copy.load(conversation.save())
        assert copy.left_out == fork.left_out == conversation.left_out > 0
        assert fork.messages == copy.messages == conversation.messages
        await fork.complete("fork")
        await copy.complete("copy")
        assert len({conversation.id, fork.id, copy.id}) == 3
        assert len(conversation.messages) == 7
        await conversation.clear()
        assert texts(conversation) == ["s"]
        assert conversation.left_out == 0
        assert texts(fork)[-1] == "to fork"
        document = json.loads(copy.save())
        assert document["v"] == 1
        with pytest.raises(ValueError):
            await copy.load(json.dumps(document | {"v": 2}))
        assert texts(copy)[-1] == "to copy"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"id": "two words"}, ValueError),
        ({"max_input_tokens": 0}, ValueError),
        ({"max_input_tokens": True}, TypeError),
        ({"max_input_tokens": 1.5}, TypeError),
        ({"max_input_tokens": "8"}, TypeError),
        ({"on_busy": "wait"}, ValueError),
        ({"max_tokens": 1}, TypeError),
    ],
)
async def test_wrong_options(options: ConversationOptions, error: type[Exception]) -> None:
    """They are refused when the conversation is opened."""
    async with MockPool() as pool, pool.client() as client:
        with pytest.raises(error):
            client.conversation(role="r", **options)


async def test_reasoning_and_calls_are_sent_again() -> None:
    """A model may need its reasoning together with the results of its calls."""

    def reason(request: ChatRequest) -> Iterator[TokenDelta]:
        yield TokenDelta(reasoning="hm", text="so")

    async with MockPool(reason) as pool, pool.client() as client:
        conversation = client.conversation(role="r")
        await conversation.complete("1")
        await conversation.complete("2")
    assert pool.requests[1].messages[1] == Message(role="assistant", content="so", reasoning_content="hm")
    assert issubclass(ConversationBusy, LlmError)
