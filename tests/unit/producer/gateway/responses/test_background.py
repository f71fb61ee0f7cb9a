"""Responses in the background, with OpenAI's own client in front of a mock pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from tests.gateways import served
from tests.unit.producer.gateway.responses.test_foreground import sdk

from tokenlane.producer.gateway.responses.kept import Rest
from tokenlane.producer.gateway.responses.shelf import Shelf
from tokenlane.producer.testing import MockPool
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import Interrupted, ProviderDown
from tokenlane.routing.contract.requests import ChatRequest


class Held:
    """A model that says a word, and the rest when it is let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, _: ChatRequest) -> AsyncIterator[str]:
        yield "one "
        await self.go.wait()
        yield "two "
        yield "three"


async def test_many_readers() -> None:
    """A response goes on when its client has left. Readers come at any number, and get the rest, each once."""
    model = Held()
    async with MockPool(model) as pool, served(pool, in_background=True) as url, sdk(url) as client:
        stream = await client.responses.create(model="m", input="hi", background=True, stream=True, metadata={"a": "b"})
        events = []
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        assert events[0].type == "response.created"
        named = events[0].response.id
        running = await client.responses.retrieve(named)
        assert (running.status, running.output_text, running.metadata) == ("in_progress", "one ", {"a": "b"})
        model.go.set()
        after = events[-1].sequence_number
        for _ in range(2):
            rest = [event async for event in await client.responses.retrieve(named, stream=True, starting_after=after)]
            text = "".join(event.delta for event in rest if event.type == "response.output_text.delta")
            assert (text, rest[-1].type) == ("two three", "response.completed")
            numbers = [event.sequence_number for event in (*events, *rest)]
            assert numbers == sorted(set(numbers))
            after_all = numbers[-1]
            assert [
                e async for e in await client.responses.retrieve(named, stream=True, starting_after=after_all)
            ] == []
        done = await client.responses.retrieve(named)
        assert (done.status, done.output_text) == ("completed", "one two three")
        went_on = await client.responses.create(model="m", input="and?", previous_response_id=named)
        assert went_on.status == "completed"
        assert [message.content for message in pool.requests[1].messages] == ["hi", "one two three", "and?"]


async def test_cancelling_and_deleting() -> None:
    """Cancelling ends a response for its readers too; a deleted one is gone."""
    async with MockPool(Held()) as pool, served(pool, in_background=True) as url, sdk(url) as client:
        begun = await client.responses.create(model="m", input="hi", background=True)
        assert begun.status in ("queued", "in_progress")
        stream = await client.responses.retrieve(begun.id, stream=True)
        cancelled = await client.responses.cancel(begun.id)
        assert cancelled.status == "cancelled"
        events = [event async for event in stream]
        assert events[-1].type == "response.failed"
        assert events[-1].response.status == "cancelled"
        await client.responses.delete(begun.id)
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.responses.retrieve(begun.id)
        assert unknown.value.code == "response_not_found"


async def test_a_completion_window() -> None:
    """A window is the request's time to live, at low priority."""
    async with MockPool(lambda _: "ok") as pool, served(pool, in_background=True) as url, sdk(url) as client:
        options = {"background_options": {"completion_window": "2h"}}
        await client.responses.create(model="m", input="hi", background=True, extra_body=options)
        assert (pool.requests[0].priority, pool.requests[0].time_to_live_ms) == ("low", 7_200_000)
        too_long = {"background_options": {"completion_window": "99h"}}
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="m", input="hi", background=True, extra_body=too_long)


async def test_another_agent_may_not_read() -> None:
    """Neither reading nor cancelling nor deleting."""
    model = Held()
    async with (
        MockPool(model) as pool,
        served(pool, in_background=True) as url,
        sdk(url) as mine,
        sdk(url, "x") as other,
    ):
        named = (await mine.responses.create(model="m", input="hi", background=True)).id
        for forbidden in (other.responses.retrieve, other.responses.cancel, other.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await forbidden(named)
        model.go.set()
        events = [event async for event in await mine.responses.retrieve(named, stream=True)]
        assert events[-1].type == "response.completed"


async def test_errors() -> None:
    """What fails later is in the response, with its code; unknown ids have the status 404."""

    async def broken(_: ChatRequest) -> AsyncIterator[str]:
        yield "some "
        raise ProviderDown("It burnt down.")

    async with MockPool(broken) as pool, served(pool, in_background=True) as url, sdk(url) as client:
        named = (await client.responses.create(model="m", input="hi", background=True)).id
        events = [event async for event in await client.responses.retrieve(named, stream=True)]
        assert events[-1].type == "response.failed"
        failed = await client.responses.retrieve(named)
        assert failed.status == "failed"
        assert failed.error is not None
        assert str(failed.error.code) == "interrupted"
    async with MockPool() as pool, served(pool, in_background=True) as url, httpx.AsyncClient() as http:
        for path in ("resp_x", "resp_" + "0" * 32, "0" * 32):
            assert (await http.get(f"{url}/v1/responses/{path}")).status_code == 404


def test_the_shelf() -> None:
    """Values go by age and by size, the oldest first, and the shelf knows that it had them."""
    now = [0.0]
    shelf = Shelf[str](10, 100, lambda: now[0])
    shelf.put("a", "A", 60)
    now[0] = 5
    shelf.put("b", "B", 30)
    assert (shelf.get("a"), shelf.get("b"), shelf.had("a")) == ("A", "B", False)
    shelf.put("c", "C", 20)
    assert (shelf.get("a"), shelf.had("a"), shelf.get("b")) == (None, True, "B")
    now[0] = 16
    assert (shelf.get("b"), shelf.get("c"), shelf.had("c"), shelf.had("d")) == (None, None, True, False)
    shelf.put("e", "E", 101)
    assert (shelf.get("e"), shelf.had("e")) == (None, True)
    shelf.put("f", "F", 1)
    assert (shelf.drop("f"), shelf.drop("f"), shelf.had("f")) == (True, False, False)


@pytest.mark.parametrize("known", [0, 1, 4, 9])
def test_an_answer_that_is_read_again(known: int) -> None:
    """Only what is new comes, cut where it must be; another or a shorter text is an error."""
    text = "one two three"
    had = [TokenDelta(text=letter) for letter in text[:known]]
    rest = Rest(had)
    new = [delta.text for piece in ("one ", "two ", "three") for delta in rest.of([TokenDelta(text=piece)])]
    rest.check_end()
    assert "".join(new) == text[known:]
    if known:
        with pytest.raises(Interrupted):
            Rest(had).of([TokenDelta(text="x" * known)])
        with pytest.raises(Interrupted):
            Rest(had).check_end()
