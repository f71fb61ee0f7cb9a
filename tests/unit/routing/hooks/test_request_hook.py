"""A request hook changes a request, or refuses it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.hooks import Clock

from tokenlane.routing.contract.errors import BadRequest, HookFailed
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.hooks.functions import Hooks, RequestHook
from tokenlane.routing.hooks.request_hook import change_request

SECRET = "xyzzy"
REQUEST = ChatRequest(role="r", messages=[Message(role="user", content=SECRET)])


def warmer(request: ChatRequest) -> ChatRequest:
    return request.model_copy(update={"temperature": 1.5})


async def warmer_later(request: ChatRequest) -> ChatRequest:
    await asyncio.sleep(0)
    return warmer(request)


class Warmer:
    async def __call__(self, request: ChatRequest) -> ChatRequest:
        return warmer(request)


@pytest.mark.parametrize("hook", [warmer, warmer_later, Warmer(), lambda request: warmer_later(request)])
async def test_plain_and_async_functions(hook: RequestHook) -> None:
    """Both may change a copy of the request."""
    Hooks(request=hook)
    assert await change_request(hook, REQUEST) == warmer(REQUEST)


async def test_what_a_hook_puts_in_is_validated() -> None:
    """Messages may be mappings, as in a call of the client."""
    changed = await change_request(
        lambda r: r.model_copy(update={"messages": [{"role": "user", "content": "b"}]}), REQUEST
    )
    assert changed.messages == [Message(role="user", content="b")]
    assert (changed.id, changed.role) == (REQUEST.id, REQUEST.role)


async def test_a_hook_may_change_its_request_in_place() -> None:
    """It gets a copy: the caller's request stays as it was."""

    def longer(request: ChatRequest) -> ChatRequest:
        request.messages.append(Message(role="user", content="b"))
        return request

    changed = await change_request(longer, REQUEST)
    assert [len(changed.messages), len(REQUEST.messages)] == [2, 1]
    assert await change_request(lambda request: request, REQUEST) == REQUEST


async def test_a_hook_may_refuse() -> None:
    """Its BadRequest is the agent's, word for word."""
    error = BadRequest("not today")

    def refuse(request: ChatRequest) -> ChatRequest:
        raise error

    with pytest.raises(BadRequest) as raised:
        await change_request(refuse, REQUEST)
    assert raised.value is error


def fails(request: ChatRequest) -> ChatRequest:
    raise KeyError(SECRET)


def exits(request: ChatRequest) -> ChatRequest:
    raise SystemExit(SECRET)


async def hangs(request: ChatRequest) -> ChatRequest:
    await asyncio.Event().wait()
    return request


async def swallows(request: ChatRequest) -> ChatRequest:
    try:
        await asyncio.Event().wait()
    except BaseException:
        return request
    return request


def cold(request: ChatRequest) -> ChatRequest:
    return request.model_copy(update={"temperature": -1})


def other(request: ChatRequest) -> ChatRequest:
    return ChatRequest(role="r", messages=request.messages)


def unknown_field(request: ChatRequest) -> ChatRequest:
    return request.model_copy(update={"flavour": SECRET})


def empties(request: ChatRequest) -> ChatRequest:
    request.messages.clear()
    return request


def changes_the_id(request: ChatRequest) -> ChatRequest:
    object.__setattr__(request, "id", "f" * 32)
    return request


def unserializable(request: ChatRequest) -> ChatRequest:
    return request.model_copy(update={"metadata": {"a": object()}})


def cancels_itself(request: ChatRequest) -> ChatRequest:
    raise asyncio.CancelledError(SECRET)


async def awaits_a_cancelled_task(request: ChatRequest) -> ChatRequest:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task
    return request


def exits_a_generator(request: ChatRequest) -> ChatRequest:
    raise GeneratorExit(SECRET)


async def fails_a_test(request: ChatRequest) -> ChatRequest:
    pytest.fail(SECRET)


HOOKS: list[Any] = [cancels_itself, awaits_a_cancelled_task, exits_a_generator, fails_a_test]
HOOKS += [fails, exits, hangs, swallows, cold, other, empties, changes_the_id, unknown_field]
HOOKS += [unserializable]


@pytest.mark.parametrize("hook", [*HOOKS, lambda r: None, lambda r: SECRET, lambda r: r.messages, lambda: REQUEST])
async def test_a_hook_that_fails(hook: RequestHook) -> None:
    """The error names the hook and quotes nothing."""
    with pytest.raises(HookFailed) as raised:
        await change_request(hook, REQUEST, patience_s=0.05)
    assert f"{hook.__module__}:{hook.__qualname__}" in raised.value.message
    assert SECRET not in str(raised.value)


async def test_a_hook_cannot_swallow_a_cancellation() -> None:
    """The deadline of the request ends it all the same."""
    task = asyncio.create_task(change_request(swallows, REQUEST))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_hook_that_blocks(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A warning names it; if it blocks for longer than it may take, it has failed."""
    clock = Clock(monkeypatch)
    block_s = 12.0

    def blocks(request: ChatRequest) -> ChatRequest:
        clock.ahead_s += block_s
        return request

    assert await change_request(blocks, REQUEST) == REQUEST
    assert blocks.__qualname__ in caplog.text
    block_s = 40.0
    with pytest.raises(HookFailed, match=r"30 s"):
        await change_request(blocks, REQUEST)


async def generator(request: ChatRequest) -> Any:
    yield request


@pytest.mark.parametrize("hook", [generator, ChatRequest, "filters:add_rules", lambda r: (yield)])
def test_what_a_request_hook_may_not_be(hook: Any) -> None:
    """A generator function, a class, and what cannot be called."""
    with pytest.raises(TypeError, match="request hook"):
        Hooks(request=hook)
