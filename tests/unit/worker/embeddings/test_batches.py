"""Batches: whatever is asked together, everybody gets the vectors of their own texts, or their own error."""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenlane.routing.contract.errors import BadRequest, ContextTooLong, LlmError, ProviderDown, Unauthorized
from tokenlane.routing.support.tasks import background
from tokenlane.worker.embeddings.batches import Batches, BatchLimits
from tokenlane.worker.providers.errors.http_errors import refusal

DIMENSIONS = 4


class Back:
    """A model server that can be held, and has texts it cannot take. `calls`: what it was asked, model and texts."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.refused: dict[str, Exception] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.cancelled = 0

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        self.calls.append((model, list(inputs)))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        for text in inputs:
            if text in self.refused:
                raise self.refused[text]
        return [numbers(model, text)[:dimensions] for text in inputs]


def numbers(model: str, text: str) -> list[float]:
    digest = hashlib.sha256(f"{model}\n{text}".encode()).digest()
    return [float(byte) for byte in digest[:DIMENSIONS]]


def expected(model: str, texts: Sequence[str], dimensions: int | None = None) -> list[bytes]:
    return [array("f", numbers(model, text)[:dimensions]).tobytes() for text in texts]


@asynccontextmanager
async def batching(back: Back, **limits: int) -> AsyncIterator[Batches]:
    batches = Batches(back, BatchLimits(**limits))
    async with background() as tasks:
        tasks.create_task(batches.run())
        yield batches


async def held(batches: Batches, back: Back) -> asyncio.Task[list[bytes]]:
    """A first request that keeps the model server busy until it is opened."""
    back.open.clear()
    first = asyncio.create_task(batches.vectors("m", ["first"]))
    async with asyncio.timeout(5):
        while not back.calls:
            await asyncio.sleep(0)
    return first


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.lists(st.text("xyz", max_size=2), max_size=9),
            st.sampled_from([None, 2, 3]),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.integers(1, 9),
    st.integers(1, 4),
)
async def test_everybody_gets_their_own_in_their_order(
    asked: list[tuple[str, list[str], int | None, bool]], most: int, turn: int
) -> None:
    """However requests, models and sizes fall together, each gets its texts' vectors in its texts' order."""
    back = Back()
    async with batching(back, texts=most, turn=turn) as batches:
        found = await asyncio.gather(
            *(
                batches.vectors(model, texts, dimensions=dimensions, alone=alone)
                for model, texts, dimensions, alone in asked
            )
        )
    assert found == [expected(model, texts, dimensions) for model, texts, dimensions, _ in asked]
    assert all(0 < len(texts) <= most for _, texts in back.calls)


async def test_what_waits_goes_in_one_call() -> None:
    """What is asked while the model server works is one call afterwards; a text asked for by several is sent once."""
    back = Back()
    async with batching(back) as batches:
        first = await held(batches, back)
        others = [asyncio.create_task(batches.vectors("m", ["same", f"own {number}"])) for number in range(5)]
        await asyncio.sleep(0)
        back.open.set()
        await asyncio.gather(first, *others)
    assert [sorted(texts) for _, texts in back.calls] == [["first"], [*(f"own {n}" for n in range(5)), "same"]]


async def test_a_large_request_does_not_keep_a_small_one_waiting() -> None:
    """A small request that comes while a large one is being answered is in the next call."""
    back = Back()
    async with batching(back) as batches:
        first = await held(batches, back)
        large = asyncio.create_task(batches.vectors("m", [str(number) for number in range(4 * BatchLimits().texts)]))
        small = asyncio.create_task(batches.vectors("m", ["small"]))
        await asyncio.sleep(0)
        back.open.set()
        assert await small == expected("m", ["small"])
        assert not large.done()
        await asyncio.gather(first, large)
    assert "small" in back.calls[1][1]


async def test_long_texts_make_small_batches() -> None:
    """A batch is bounded by its characters too; a text that is longer than that goes alone."""
    back = Back()
    async with batching(back, characters=10) as batches:
        await batches.vectors("m", ["a" * 4, "b" * 6, "c", "d" * 30, "e"])
    assert [texts for _, texts in back.calls] == [["a" * 4, "b" * 6], ["c"], ["d" * 30], ["e"]]


@pytest.mark.parametrize("count", [2, 5, 8])
@pytest.mark.parametrize("kind", [BadRequest, ContextTooLong, partial(ProviderDown, retryable=False)])
async def test_one_that_cannot_be_taken_fails_alone(kind: Callable[[str], LlmError], count: int) -> None:
    """A batch that is refused for one request's text is split until that request alone fails."""
    back = Back()
    back.refused["bad"] = kind("too bad")
    async with batching(back) as batches:
        first = await held(batches, back)
        good = [asyncio.create_task(batches.vectors("m", [f"good {number}", "x"])) for number in range(count)]
        bad = asyncio.create_task(batches.vectors("m", ["fine", "bad"]))
        await asyncio.sleep(0)
        back.open.set()
        with pytest.raises(LlmError, match="too bad"):
            await bad
        await first
        assert await asyncio.gather(*good) == [expected("m", [f"good {number}", "x"]) for number in range(count)]


async def test_a_model_server_that_is_down_fails_all_of_a_batch_once() -> None:
    """An error that is not of a text is not tried again here; each request has it as an error of its own."""
    back = Back()
    back.refused["x"] = ProviderDown("gone")
    async with batching(back) as batches:
        first = await held(batches, back)
        others = [asyncio.create_task(batches.vectors("m", ["x", str(number)])) for number in range(3)]
        await asyncio.sleep(0)
        back.open.set()
        await first
        errors = await asyncio.gather(*others, return_exceptions=True)
    assert len(back.calls) == 2
    assert [type(error) for error in errors] == [ProviderDown] * 3
    assert len({id(error) for error in errors}) == 3


async def test_what_failed_before_is_asked_alone() -> None:
    """A request that is run again shares no call, so that it cannot fail others a second time."""
    back = Back()
    async with batching(back) as batches:
        first = await held(batches, back)
        others = [asyncio.create_task(batches.vectors("m", [f"{n}"], alone=n == 1)) for n in range(3)]
        await asyncio.sleep(0)
        back.open.set()
        await asyncio.gather(first, *others)
    assert sorted(texts for _, texts in back.calls) == [["0", "2"], ["1"], ["first"]]


async def test_a_call_that_nobody_waits_for_is_cancelled() -> None:
    """The call ends with the last request that wants something of it, and not before; then others are served."""
    back = Back()
    async with batching(back) as batches:
        first = await held(batches, back)
        second, third = (asyncio.create_task(batches.vectors("m", [text])) for text in ("second", "third"))
        await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(5):
            while len(back.calls) < 2:
                await asyncio.sleep(0)
        assert back.cancelled == 1
        second.cancel()
        await asyncio.wait({second})
        assert back.cancelled == 1
        back.open.set()
        assert await third == expected("m", ["third"])


class Few(Back):
    """Takes so many texts in one call, and says so in its words."""

    def __init__(self, most: int, words: str = "", status: int = 400) -> None:
        super().__init__()
        self.most, self.words, self.status = most, words, status

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        vectors = await super().embed(inputs, model, dimensions)
        if len(inputs) > self.most:
            raise refusal(self.status, self.words.format(len(inputs)).encode())
        return vectors


REFUSALS = {
    "text-embeddings-inference": ("batch size {} > maximum allowed batch size 10", 422, True),
    "text-embeddings-inference, 413": ("batch size {} > maximum allowed batch size 10", 413, True),
    "OpenAI": (
        "Invalid 'input': array too long. Expected an array with maximum length 10, but got one with length {}.",
        400,
        True,
    ),
    "DashScope": ("<400> InvalidParameter: batch size is invalid, it should not be larger than 10.: input", 400, True),
    "Gemini": ("BatchEmbedContentsRequest.requests: at most 10 requests can be in one batch", 400, True),
    "Cohere": ("invalid request: total number of texts must be at most 10", 400, True),
    "Mistral": ("Too many inputs in request. Split into more batches.", 400, False),
    "OpenAI, tokens": ('Requested 400000 tokens, max 300000 tokens per request. "max_tokens_per_request"', 400, False),
    "a proxy": ("<html>Request Entity Too Large</html>", 413, False),
}


@pytest.mark.parametrize("server", REFUSALS)
async def test_a_server_that_takes_fewer_texts_at_once(server: str) -> None:
    """Whatever it says, a request of more is answered, in its order; a number that it names is kept to."""
    words, status, says_how_many = REFUSALS[server]
    back = Few(10, words, status)
    texts = [f"text {number}" for number in range(47)]
    async with batching(back) as batches:
        for again in (False, True):
            del back.calls[:]
            assert await batches.vectors("m", texts) == expected("m", texts)
            refused = [asked for _, asked in back.calls if len(asked) > back.most]
            assert len(refused) <= (int(not again) if says_how_many else 7)


async def test_a_refusal_that_nobody_can_read() -> None:
    """A server that refuses many texts in unknown words is asked for fewer; where all texts are refused, a few calls
    tell, and the error is the server's."""
    texts = [f"text {number}" for number in range(40)]
    async with batching(Few(10, "zu viele")) as batches:
        assert await batches.vectors("m", texts) == expected("m", texts)
    back = Few(0, "kann ich nicht")
    async with batching(back) as batches:
        with pytest.raises(BadRequest) as refused:
            await batches.vectors("m", texts)
    assert refused.value.detail == "kann ich nicht"
    assert len(back.calls) <= 7


async def test_joined_requests_that_are_too_many_together() -> None:
    """Nobody is refused for what others ask, and a text that cannot be taken fails its request alone."""
    back = Few(10, "batch size {} > maximum allowed batch size 10", 413)
    back.refused["bad"] = BadRequest("no")
    async with batching(back) as batches:
        first = await held(batches, back)
        asked = [[f"{name} {number}" for number in range(8)] for name in "abcd"]
        asked[2][4] = "bad"
        others = [asyncio.create_task(batches.vectors("m", texts)) for texts in asked]
        await asyncio.sleep(0)
        back.open.set()
        await first
        found = await asyncio.gather(*others, return_exceptions=True)
    assert [isinstance(one, BadRequest) for one in found] == [False, False, True, False]
    assert found[3] == expected("m", asked[3])


async def test_what_is_no_matter_of_how_many_is_not_asked_again() -> None:
    """A text that is too long, a key that is refused or a server that is down are not asked for in parts."""
    for error in (ContextTooLong("long"), Unauthorized("key"), ProviderDown("down")):
        back = Back()
        back.refused["a"] = error
        async with batching(back) as batches:
            with pytest.raises(type(error)):
                await batches.vectors("m", ["a", "b", "c", "d"])
        assert len(back.calls) == 1


async def test_too_few_vectors_are_no_answer() -> None:
    """A model server that answers with another number of vectors has failed."""

    class Short(Back):
        async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
            return (await super().embed(inputs, model, dimensions))[1:]

    async with batching(Short()) as batches:
        with pytest.raises(ProviderDown) as raised:
            await batches.vectors("m", ["a", "b"])
        assert not raised.value.retryable


async def test_numbers_that_are_none_are_their_requests_failure() -> None:
    """A provider that answers with what is no vector fails the request, and the next one is served."""
    back = Back()
    async with batching(back) as batches:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{__name__}.numbers", lambda model, text: [text])
            with pytest.raises(TypeError):
                await batches.vectors("m", ["one"])
        assert await batches.vectors("m", ["one"]) == expected("m", ["one"])


async def test_texts_are_in_no_repr() -> None:
    """What waits for the model server, and what is on its way, shows neither texts nor vectors."""
    back = Back()
    async with batching(back) as batches:
        first = await held(batches, back)
        second = asyncio.create_task(batches.vectors("m", ["what an agent said"]))
        async with asyncio.timeout(5):
            while not batches._waiting:
                await asyncio.sleep(0)
        shown = f"{batches._waiting} {batches._call_parts}"
        assert not any(word in shown for word in ("texts", "first", "agent"))
        back.open.set()
        await asyncio.gather(first, second)
