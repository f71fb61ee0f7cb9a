"""A client's chats pass through its hooks, and agents read what comes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.hooks import examples
from tests.waiting import until

from tokenlane.producer import (
    BadRequest,
    ChatRequest,
    Client,
    HookFailed,
    Interrupted,
    LlmError,
    RequestCancelled,
    TokenDelta,
)
from tokenlane.producer.testing import Failover, MockPool, Restart
from tokenlane.routing.hooks.functions import TokenHook

EXAMPLES = examples()
KEY = "sk-abcdefghij0123456789"
SECRET = "xyzzy"


async def test_the_agent_reads_what_comes_out() -> None:
    """In deltas, in the text so far and in the whole answer. Positions are those of the pool, and places its own."""
    pieces = ["a ", KEY[:9], KEY[9:], " b"]
    async with MockPool(lambda _: pieces) as pool, pool.client(token_hook=EXAMPLES.mask_keys) as client:
        async with client.chat("q", role="r") as stream:
            deltas = [delta async for delta in stream]
            answer = await stream.answer()
            assert answer.text == stream.text == "a *** b"
        assert [(delta.text, delta.position) for delta in deltas] == [("a ", 0), ("***", 2), (" b", 3), ("", 4)]
        assert {(delta.request_id, delta.attempt, delta.model) for delta in deltas} == {(stream.request_id, 1, "mock")}
        assert (deltas[-1].finish_reason, answer.usage.completion_tokens) == ("stop", 4)
        assert (await client.complete("q", role="r")).text == "a *** b"
        assert (await client.embed("abc", role="r")).vectors


async def test_a_hook_that_ends_early_cancels_the_request() -> None:
    """The answer is complete for the agent, though the model goes on."""
    stopped = asyncio.Event()

    async def model(request: ChatRequest) -> AsyncIterator[str]:
        try:
            for piece in ("Hello. ", "Best", " regards"):
                yield piece
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with MockPool(model) as pool, pool.client(token_hook=EXAMPLES.stop_at_phrase) as client:
        answer = await client.complete("q", role="r")
        assert (answer.text, answer.finish_reason, answer.usage.completion_tokens) == ("Hello. ", "stop", 3)
        await stopped.wait()


async def test_the_error_of_a_hook_is_the_cause() -> None:
    """The agent has what was delivered, and the exception itself."""

    async def broken(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        yield await anext(deltas)
        raise KeyError(SECRET)

    async with MockPool(lambda _: ["a", "b"]) as pool, pool.client(token_hook=broken) as client:
        with pytest.raises(HookFailed, match="KeyError") as raised:
            await client.complete("q", role="r")
    assert raised.value.partial == "a"
    assert raised.value.request_id == pool.requests[0].id
    assert isinstance(raised.value.__cause__, KeyError)
    assert SECRET not in str(raised.value)


async def test_an_answer_that_breaks_off_has_only_filtered_text() -> None:
    """What the hook held back or masked is not in `partial`."""
    pieces: list[str | Restart] = [f"a {KEY} ", "sk-", Restart()]
    async with MockPool(lambda _: pieces) as pool, pool.client(token_hook=EXAMPLES.mask_keys) as client:
        with pytest.raises(Interrupted) as raised:
            await client.complete("q", role="r")
    assert raised.value.partial == "a *** "


async def test_another_lane_goes_on_within_the_same_answer() -> None:
    """The hook notices nothing of a failover in mid-answer."""
    pieces: list[str | Failover] = ["a ", KEY[:5], Failover(), KEY[5:], " b"]
    async with MockPool(lambda _: pieces) as pool, pool.client(token_hook=EXAMPLES.mask_keys) as client:
        assert (await client.complete("q", role="r")).text == "a *** b"


async def test_an_answer_that_begins_anew() -> None:
    """So does the hook, and the first delta that comes out says so."""
    pieces: list[str | Restart] = ["a b ", "sk-", Restart(), "c ", "d"]
    async with MockPool(lambda _: pieces) as pool, pool.client(token_hook=EXAMPLES.count_words) as client:
        async with client.chat("q", role="r", on_interrupt="restart") as stream:
            deltas = [delta async for delta in stream]
            assert stream.text == "c d\n(2 words)"
    anew = [number for number, delta in enumerate(deltas) if delta.restarted]
    assert "".join(delta.text for delta in deltas[anew[-1] :]) == "c d\n(2 words)"
    assert len(anew) == 1


async def test_giving_up_a_wait_loses_nothing() -> None:
    """An agent may wait for the next delta with a time limit, and read on later."""
    go = asyncio.Event()

    async def model(request: ChatRequest) -> AsyncIterator[str]:
        yield "a"
        await go.wait()
        yield "b"

    async with MockPool(model) as pool, pool.client(token_hook=EXAMPLES.count_words) as client:
        async with client.chat("q", role="r") as stream:
            await anext(stream)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.01)
            go.set()
            assert [delta.text async for delta in stream] == ["b", "\n(1 words)", ""]


async def test_a_stream_that_is_cancelled_or_left() -> None:
    """The request is cancelled, and the hook is closed."""
    closed: list[bool] = []

    async def noted(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        try:
            async for delta in deltas:
                yield delta
        finally:
            closed.append(True)

    async def model(request: ChatRequest) -> AsyncIterator[str]:
        yield "a"
        await asyncio.Event().wait()

    async with MockPool(model) as pool, pool.client(token_hook=noted) as client:
        async with client.chat("q", role="r") as stream:
            await anext(stream)
            await stream.cancel()
            with pytest.raises(RequestCancelled):
                await anext(stream)
        async with client.chat("q", role="r") as stream:
            await anext(stream)
        await until(lambda: len(closed) == 2)


async def cancelled(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield await anext(deltas)
    raise asyncio.CancelledError


async def cancels_its_task(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield await anext(deltas)
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize(("hook", "error"), [(cancelled, HookFailed), (cancels_its_task, RequestCancelled)])
async def test_whatever_ends_a_hook_ends_its_request(hook: TokenHook, error: type[LlmError]) -> None:
    """The agent does not wait for the rest, and the client goes on."""
    async with MockPool(lambda _: ["a", "b"]) as pool, pool.client(token_hook=hook) as client:
        for _ in range(2):
            async with client.chat("q", role="r") as stream:
                with pytest.raises(error):
                    await stream.answer()
                assert stream.text == "a"


async def never(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    await asyncio.Event().wait()
    yield TokenDelta()


async def floods(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    while True:
        yield TokenDelta(text="a", tool_calls=())


@pytest.mark.parametrize("hook", [never, floods])
async def test_a_client_is_closed_while_a_hook_runs(hook: TokenHook) -> None:
    """Whatever the hook does."""
    async with MockPool(lambda _: "a") as pool, pool.client(token_hook=hook) as client:
        async with client.chat("q", role="r"):
            await asyncio.sleep(0)


async def test_the_request_hook_comes_before_routing() -> None:
    """It may choose the role and the model, and its refusal is the agent's error."""

    async def hook(request: ChatRequest) -> ChatRequest:
        if request.metadata:
            raise BadRequest("not today")
        return request.model_copy(update={"role": "coder", "model": "m2", "max_tokens": 5})

    async with MockPool(lambda _: "a") as pool, pool.client(request_hook=hook) as client:
        await client.complete("q", role="r", temperature=0.5)
        with pytest.raises(BadRequest, match="not today") as raised:
            await client.complete("q", role="r", metadata={"a": 1})
        assert raised.value.request_id
        await client.embed("abc", role="r")
    (request,) = pool.requests
    assert (request.role, request.model, request.max_tokens, request.temperature) == ("coder", "m2", 5, 0.5)
    assert pool.embed_requests[0].role == "r"


async def test_the_request_hook_may_allow_a_restart() -> None:
    """The options that the client itself follows are those of the changed request."""
    pieces: list[str | Restart] = ["a", Restart(), "b"]

    def hook(request: ChatRequest) -> ChatRequest:
        return request.model_copy(update={"on_interrupt": "restart"})

    async with MockPool(lambda _: pieces) as pool, pool.client(request_hook=hook) as client:
        assert (await client.complete("q", role="r")).text == "b"


async def test_a_changed_request_is_checked_as_a_new_one() -> None:
    """What contradicts itself is refused before it is sent."""

    def hook(request: ChatRequest) -> ChatRequest:
        return request.model_copy(update={"top_logprobs": 3})

    async with MockPool(lambda _: "a") as pool, pool.client(request_hook=hook) as client:
        with pytest.raises(BadRequest, match="top_logprobs"):
            await client.complete("q", role="r")
    assert pool.requests == []


async def test_a_conversation_keeps_what_comes_out() -> None:
    """The next question is asked with it, also after an answer that the hook ended."""
    hooks: dict[str, Any] = {"token_hook": EXAMPLES.stop_at_phrase, "request_hook": EXAMPLES.add_rules}
    async with MockPool(lambda _: ["Hello. ", "Best regards", ", me"]) as pool, pool.client(**hooks) as client:
        conversation = client.conversation(role="r")
        await conversation.complete("q1")
        await conversation.complete("q2")
        assert [message.content for message in conversation.messages] == ["q1", "Hello. ", "q2", "Hello. "]
    sent = [message.content for message in pool.requests[1].messages]
    assert sent == ["Answer in English.", "q1", "Hello. ", "q2"]


async def test_a_conversation_takes_a_question_back_if_the_hook_fails() -> None:
    """As after any error."""

    def broken(delta: TokenDelta) -> TokenDelta:
        raise KeyError

    async with MockPool(lambda _: "a") as pool, pool.client(token_hook=broken) as client:
        conversation = client.conversation(role="r")
        with pytest.raises(HookFailed):
            await conversation.complete("q")
        assert conversation.messages == []


@pytest.mark.parametrize("name", ["token_hook", "request_hook"])
def test_hooks_are_functions(name: str) -> None:
    """A name, as in llm.toml, is refused when the client is made."""
    hook: dict[str, Any] = {name: "filters:mask_keys"}
    with pytest.raises(TypeError, match=name.replace("_", " ")):
        Client("redis://127.0.0.1:1", **hook)
