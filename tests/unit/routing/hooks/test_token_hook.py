"""An answer passes through a token hook, whatever the hook does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial, wraps
from typing import Any

import pytest
from tests.hooks import Clock, Source, examples, filtered, text_of

from tokenlane.routing.contract.answers import TokenDelta, TokenLogprob, ToolCallDelta, Usage
from tokenlane.routing.contract.errors import HookFailed, ProviderDown
from tokenlane.routing.hooks import token_hook
from tokenlane.routing.hooks.functions import Hooks, TokenHook
from tokenlane.routing.hooks.token_hook import filter_deltas

EXAMPLES = examples()
KEY = "sk-abcdefghij0123456789"
SECRET = "xyzzy"


async def unchanged(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        yield delta


async def upper(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        delta.text = delta.text.upper()
        yield delta


def upper_each(delta: TokenDelta) -> TokenDelta:
    delta.text = delta.text.upper()
    return delta


class Upper:
    async def __call__(self, deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        async for delta in upper(deltas):
            yield delta


class UpperEach:
    def __call__(self, delta: TokenDelta) -> TokenDelta:
        return upper_each(delta)


@wraps(upper)
def wrapped(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    return upper(deltas)


@pytest.mark.parametrize(
    "hook", [upper, upper_each, Upper(), UpperEach(), partial(upper), wrapped, lambda delta: upper_each(delta)]
)
async def test_what_a_hook_may_be(hook: TokenHook) -> None:
    """A function over the stream or over one delta: plain, an object that is called, wrapped, or a lambda."""
    Hooks(token=hook)
    deltas = await filtered(hook, ["a", "b"])
    assert [(delta.text, delta.position) for delta in deltas] == [("A", 0), ("B", 1), ("", 2)]


async def coroutine(delta: TokenDelta) -> TokenDelta:
    return delta


@pytest.mark.parametrize("hook", [Upper, coroutine, "filters:mask_keys", 7, Source])
def test_what_a_hook_may_not_be(hook: Any) -> None:
    """A class, a coroutine function and what cannot be called are refused before the first answer."""
    with pytest.raises(TypeError, match="token hook"):
        Hooks(token=hook)


async def test_all_content_passes() -> None:
    """Reasoning, tool calls, the finish reason and the usage arrive, each once, and the last two at the end."""
    call = TokenDelta(tool_calls=(ToolCallDelta(index=0, id="c", name="f", arguments="{}"),))
    source = Source("a", TokenDelta(reasoning="why"), call, usage=Usage(completion_tokens=3))
    deltas = await filtered(unchanged, source)
    assert [delta.reasoning for delta in deltas] == ["", "why", "", ""]
    assert deltas[2].tool_calls == call.tool_calls
    assert [delta.finish_reason for delta in deltas] == [None, None, None, "stop"]
    assert deltas[-1].usage == Usage(completion_tokens=3)
    assert source.closed


async def test_a_plain_function_drops_and_splits() -> None:
    """None drops a delta, and several take its place; a generator may yield them."""
    assert text_of(await filtered(lambda delta: None, ["a", "b"])) == ""
    assert text_of(await filtered(lambda delta: [delta, TokenDelta(text="!")], ["a", "b"])) == "a!b!"

    def twice(delta: TokenDelta) -> Iterator[TokenDelta]:
        yield delta
        yield delta

    assert text_of(await filtered(twice, ["a", "b"])) == "aabb"


async def test_text_that_was_held_back_comes_before_the_finish_reason() -> None:
    """It has the position of the last delta that the hook had read; a dropped delta has none."""

    async def held(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        text = ""
        async for delta in deltas:
            text += delta.text
            if len(text) == 2:
                yield TokenDelta(text=text)
                text = ""
        yield TokenDelta(text=text)

    deltas = await filtered(held, "abcde")
    assert [(delta.text, delta.position) for delta in deltas] == [("ab", 1), ("cd", 3), ("e", 4), ("", 5)]
    assert deltas[-1].finish_reason == "stop"


async def test_a_hook_that_ends_early_ends_the_answer() -> None:
    """The finish reason is `stop`, and the source is closed before the last delta is delivered."""
    source = Source("Hello. ", "Best", " regards", ", me")
    async for delta in filter_deltas(EXAMPLES.stop_at_phrase, source.deltas()):
        if delta.finish_reason is not None:
            assert (delta.finish_reason, source.closed, source.read) == ("stop", True, 3)
            break
    else:
        pytest.fail("no finish reason")


async def test_a_hook_may_give_its_own_finish_reason() -> None:
    """It ends the answer; what the source still has is not read."""

    async def refuse(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        async for delta in deltas:
            delta.finish_reason = "content_filter"
            yield delta

    source = Source("a", "b")
    deltas = await filtered(refuse, source)
    assert [(delta.text, delta.finish_reason) for delta in deltas] == [("a", None), ("", "content_filter")]
    assert (source.closed, source.read) == (True, 1)


async def test_an_early_end_in_the_last_delta_is_a_stop() -> None:
    """Even if the delta with the phrase also had the server's finish reason."""
    last = TokenDelta(text="a Best regards", finish_reason="length")

    async def source() -> Any:
        yield last

    deltas = [delta async for delta in filter_deltas(EXAMPLES.stop_at_phrase, source())]
    assert [(delta.text, delta.finish_reason) for delta in deltas] == [("a ", None), ("", "stop")]


async def nonsense(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[Any]:
    yield SECRET


async def none(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[Any]:
    yield None


async def wrong_text(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        delta.text = [SECRET]  # type: ignore[assignment]  # as a user without a type checker
        yield delta


async def surrogate(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield TokenDelta(text="\ud800")


async def surrogate_in_a_call(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield TokenDelta(tool_calls=(ToolCallDelta(arguments="\ud800"),))


async def raises(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for _ in deltas:
        raise KeyError(SECRET)
    yield TokenDelta()


async def exits(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        yield delta
        sys.exit(SECRET)


async def cancels_itself(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        yield delta
        raise asyncio.CancelledError(SECRET)


async def awaits_a_cancelled_task(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task
    yield await anext(deltas)


async def exits_a_generator(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield await anext(deltas)
    raise GeneratorExit(SECRET)


async def fails_a_test(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield await anext(deltas)
    pytest.fail(SECRET)


def cancels_each(delta: TokenDelta) -> TokenDelta:
    raise asyncio.CancelledError


async def after_the_finish(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield TokenDelta(finish_reason="stop")
    yield TokenDelta(text=SECRET)


async def without_end(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    while True:
        yield TokenDelta(text="a")


async def empty_without_end(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    while True:
        yield TokenDelta()


def each_without_end(delta: TokenDelta) -> Iterator[TokenDelta]:
    while True:
        yield delta


async def huge(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    while True:
        yield TokenDelta(text="a" * 1_000_000)


async def huge_call(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    for _ in range(5):
        yield TokenDelta(tool_calls=(ToolCallDelta(arguments="a" * 1_000_000),))


async def never(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    await asyncio.Event().wait()
    yield TokenDelta()


async def never_flushes(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        yield delta
    while True:  # swallows what should end it
        try:
            await asyncio.Event().wait()
        except BaseException:
            return


async def in_another_task(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield await asyncio.create_task(anext(deltas))  # type: ignore[arg-type]  # __anext__ is a coroutine function


def of_two(delta: TokenDelta, more: object) -> TokenDelta:
    return delta


def over_the_stream(deltas: Any) -> Any:
    yield from deltas


@pytest.mark.parametrize(
    "hook",
    [
        *(nonsense, none, wrong_text, surrogate, surrogate_in_a_call, raises, exits, after_the_finish, without_end),
        *(cancels_itself, awaits_a_cancelled_task, exits_a_generator, fails_a_test, cancels_each),
        *(
            empty_without_end,
            each_without_end,
            huge,
            huge_call,
            never,
            never_flushes,
            in_another_task,
            of_two,
            over_the_stream,
        ),
        lambda deltas: upper(deltas),
        lambda delta: SECRET,
        lambda delta: 7,
        lambda delta: [None],
    ],
)
async def test_a_hook_that_fails(hook: TokenHook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the hook and quotes nothing, and the source is closed."""
    monkeypatch.setattr(token_hook, "MOST_DELTAS", 1000)
    monkeypatch.setattr(token_hook, "LONGEST_ANSWER", 4_000_000)
    Hooks(token=hook)
    source = Source(SECRET, SECRET)
    with pytest.raises(HookFailed) as raised:
        await filtered(hook, source, patience_s=0.05)
    assert f"{hook.__module__}:{hook.__qualname__}" in raised.value.message
    assert SECRET not in str(raised.value)
    assert not raised.value.retryable
    assert source.closed or source.read == 0


async def test_the_error_names_the_place() -> None:
    """The type of the hook's exception, its line and its file, and the exception itself as the cause."""
    with pytest.raises(HookFailed, match=r"KeyError in line \d+ of test_token_hook.py") as raised:
        await filtered(raises, ["a"])
    assert isinstance(raised.value.__cause__, KeyError)


async def in_a_library(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        yield json.loads(delta.text)


async def stops(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield await anext(deltas)
    raise StopAsyncIteration


def stops_each(delta: TokenDelta) -> TokenDelta:
    raise StopIteration


@pytest.mark.parametrize(
    ("hook", "kind"),
    [(in_a_library, "JSONDecodeError"), (stops, "StopAsyncIteration"), (stops_each, "StopIteration")],
)
async def test_the_place_is_in_the_file_of_the_hook(hook: TokenHook, kind: str) -> None:
    """Also if a library raised, or Python turned the exception into another."""
    with pytest.raises(HookFailed, match=rf"{kind} in line \d+ of test_token_hook.py"):
        await filtered(hook, ["a"])


async def test_an_exception_outside_the_hook_has_no_place() -> None:
    """A line of tokenlane would mislead."""
    with pytest.raises(HookFailed) as raised:
        await filtered(of_two, ["a"])  # type: ignore[arg-type]  # as a user without a type checker
    assert "line" not in raised.value.message


@pytest.mark.parametrize("reads_on", [True, False])
async def test_a_hook_that_blocks(
    reads_on: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning names the hook; if it blocks for longer than it may take, it has failed."""
    clock = Clock(monkeypatch)
    block_s = 12.0

    async def blocks(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        async for delta in deltas:
            if not reads_on:
                yield delta
            clock.ahead_s += block_s

    await filtered(blocks, "abc")
    (record,) = caplog.records
    assert blocks.__qualname__ in record.message
    block_s = 40.0
    with pytest.raises(HookFailed, match=r"30 s"):
        await filtered(blocks, "abc")


async def interrupted(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield await anext(deltas)
    raise KeyboardInterrupt


async def test_ctrl_c_is_not_the_failure_of_a_hook() -> None:
    """It ends the process, as everywhere."""
    output = filter_deltas(interrupted, Source("a").deltas())
    await anext(output)
    try:
        await anext(output)
    except KeyboardInterrupt:
        return
    pytest.fail("the hook hid it")


async def swallows(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    """Yields more, whatever the source raises."""
    try:
        async for delta in deltas:
            yield delta
    except BaseException:
        yield TokenDelta(text=SECRET)
    yield TokenDelta(text=SECRET)


async def turns_errors(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    try:
        async for delta in deltas:
            yield delta
    except Exception:
        raise KeyError from None


@pytest.mark.parametrize("hook", [unchanged, upper_each, swallows, turns_errors, EXAMPLES.count_words])
async def test_an_error_of_the_source_is_raised_as_itself(hook: TokenHook) -> None:
    """A hook can neither hide it nor complete the answer after it."""
    error = ProviderDown("away")
    seen: list[TokenDelta] = []

    async def read() -> None:
        async for delta in filter_deltas(hook, Source("a", error=error).deltas()):
            seen.append(delta)

    with pytest.raises(ProviderDown) as raised:
        await read()
    assert raised.value is error
    assert text_of(seen).lower() == "a"


@pytest.mark.parametrize("hook", [unchanged, swallows, turns_errors, never_flushes])
async def test_a_cancelled_answer_stays_cancelled(hook: TokenHook) -> None:
    """Also if the hook catches the cancellation. The source is closed."""
    source = Source("a", "b")
    go, closed = asyncio.Event(), False

    async def slow() -> Any:
        nonlocal closed
        try:
            yield TokenDelta(text="a")
            go.set()
            await asyncio.Event().wait()
        finally:
            closed = True

    async def read() -> None:
        async for _ in filter_deltas(hook, slow()):
            pass

    task = asyncio.create_task(read())
    await go.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed
    assert source.read == 0


async def test_a_timeout_of_the_hook_that_cuts_its_reading() -> None:
    """Cancelling the source's read would lose a delta, so the answer does not go on."""

    async def impatient(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        yield await anext(deltas)
        try:
            async with asyncio.timeout(0):
                await anext(deltas)
        except TimeoutError:
            yield TokenDelta(text="…")

    async def slow() -> Any:
        yield TokenDelta(text="a")
        await asyncio.Event().wait()

    output = filter_deltas(impatient, slow())
    await anext(output)
    with pytest.raises(HookFailed):
        await anext(output)


async def bad_close(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    try:
        async for delta in deltas:
            yield delta
    finally:
        raise KeyError(SECRET)


async def yields_on_close(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    try:
        async for delta in deltas:
            yield delta
    except GeneratorExit:
        yield TokenDelta(text=SECRET)


async def cancels_on_close(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    try:
        async for delta in deltas:
            yield delta
    finally:
        raise asyncio.CancelledError(SECRET)


@pytest.mark.parametrize("hook", [bad_close, yields_on_close, cancels_on_close])
async def test_a_hook_that_cannot_be_closed(hook: TokenHook, caplog: pytest.LogCaptureFixture) -> None:
    """The reader that leaves is not disturbed; the log has the type of the error alone."""
    source = Source("a", "b")
    output = filter_deltas(hook, source.deltas())
    assert (await anext(output)).text == "a"
    await output.aclose()
    assert source.closed
    assert hook.__qualname__ in caplog.text
    assert SECRET not in caplog.text


async def test_a_hook_may_use_its_deltas_again() -> None:
    """What was yielded is a copy."""

    async def reuse(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        one = TokenDelta()
        async for delta in deltas:
            one.text = delta.text
            yield one

    assert text_of(await filtered(reuse, ["a", "b"])) == "ab"


async def test_the_example_masks_every_text() -> None:
    """The reasoning, too. Log probabilities, which repeat the tokens, are dropped."""
    pieces = [
        TokenDelta(text="a ", reasoning=KEY[:9], logprobs=(TokenLogprob(token="a ", logprob=-1),)),
        TokenDelta(text=KEY[:5], reasoning=KEY[9:], logprobs=(TokenLogprob(token=KEY[:5], logprob=-1),)),
        TokenDelta(text=KEY[5:] + " b"),
    ]
    deltas = await filtered(EXAMPLES.mask_keys, Source(*pieces))
    assert (text_of(deltas), "".join(delta.reasoning for delta in deltas)) == ("a *** b", "***")
    assert not any(delta.logprobs for delta in deltas)


async def test_only_content_counts() -> None:
    """A hook cannot change whose answer it is, its place or its usage, nor begin it anew."""

    async def forge(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
        async for _ in deltas:
            yield TokenDelta(
                text="a", position=99, attempt=7, lane="x", usage=Usage(completion_tokens=9), restarted=True
            )

    first, _ = await filtered(forge, ["a"])
    assert first == TokenDelta(text="a", position=0)
