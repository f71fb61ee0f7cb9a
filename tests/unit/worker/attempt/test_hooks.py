"""An attempt applies its worker's hooks: the request hook before the model server is asked, then the token hook."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.attempt_bench import SECRET, Bench
from tests.hooks import examples
from tests.workshop import FakeProvider

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest, HookFailed, ProviderDown
from tokenlane.routing.contract.messages import Completed, Deltas, Failed
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.hooks.functions import Hooks, RequestHook
from tokenlane.worker.attempt.observe import AttemptTotals

EXAMPLES = examples()


def published(bench: Bench) -> tuple[str, int]:
    """The text that the attempt published, and the number of its deltas."""
    messages = [*bench.pool.published, bench.ending[3]]
    pieces = [m for m in messages if isinstance(m, Deltas | Completed | Failed)]
    positions = [piece.first + number for piece in pieces for number in range(len(piece.deltas))]
    assert positions == list(range(positions[0], positions[0] + len(positions))) if positions else True
    return "".join(delta.text for piece in pieces for delta in piece.deltas), len(positions)


async def test_positions_count_what_comes_out() -> None:
    """Joined deltas are one, and the end of the answer counts them."""
    bench = Bench(FakeProvider(("a s", "k", "-", "b")), hooks=Hooks(token=EXAMPLES.mask_keys))
    await bench.run()
    ending, end, _, message = bench.ending
    assert (ending, end) == ("completed", 2)
    assert isinstance(message, Completed)
    assert message.usage.completion_tokens == 4
    assert published(bench) == ("a sk-b", 2)


async def test_a_hook_that_ends_the_answer_closes_the_stream() -> None:
    """Before the request is finished, as completed; the server has not sent the rest."""
    bench = Bench(FakeProvider(("a ", "Best regards", "b"), hold_after=2), hooks=Hooks(token=EXAMPLES.stop_at_phrase))
    await bench.run()
    assert bench.ending[0] == "completed"
    assert published(bench)[0] == "a "
    assert bench.pool.log == [f"opened {bench.pool.id}", f"closed {bench.pool.id}", f"finished {bench.pool.id}"]


async def test_an_answer_is_continued_through_the_hook() -> None:
    """The server continues the text as it was delivered, and the hook reads that text first."""
    provider = FakeProvider(("one ", "two ", "three"))
    bench = Bench(provider, hooks=Hooks(token=EXAMPLES.count_words))
    await bench.run_again(position=2, text="one two ", tokens=2, lane="lane0", model="m1")
    assert provider.resumed == ["one two "]
    assert published(bench) == ("three\n(3 words)", 3)


async def broken(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    async for delta in deltas:
        yield delta
        raise KeyError(SECRET)


async def cancelled(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    yield await anext(deltas)
    raise asyncio.CancelledError


async def test_a_hook_that_raises_a_cancellation_fails() -> None:
    """The request is not requeued as if the worker were shutting down."""
    bench = Bench(hooks=Hooks(token=cancelled))
    await bench.run()
    assert (bench.ending[0], bench.ending[2], bench.pool.requeued) == ("failed", HookFailed.code, [])


async def test_a_hook_that_fails_ends_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """It is not tried on another lane, counts as no failure of the model server, and leaves what was delivered."""
    bench = Bench(hooks=Hooks(token=broken))
    await bench.run()
    ending, _, code, message = bench.ending
    assert (ending, code, bench.pool.requeued, bench.heartbeat.faults) == ("failed", HookFailed.code, [], [])
    assert isinstance(message, Failed)
    assert (message.error.lane, message.error.retryable) == ("lane1", False)
    assert "KeyError" in message.error.message
    assert SECRET not in message.to_wire().decode() + caplog.text
    assert published(bench)[0] == "a"
    assert bench.pool.log[:2] == [f"opened {bench.pool.id}", f"closed {bench.pool.id}"]
    totals = AttemptTotals()
    totals.count(bench.events[0])
    assert (totals.report().errors, totals.report().failing) == ({HookFailed.code: 1}, {})


async def test_an_error_of_the_server_is_still_its_own() -> None:
    """It counts against the server, and the answer is tried again."""
    bench = Bench(FakeProvider(error=ProviderDown("away"), fail_after=1), hooks=Hooks(token=EXAMPLES.mask_keys))
    await bench.run()
    assert bench.heartbeat.faults == [ProviderDown.code]
    assert bench.pool.causes == [ProviderDown.code]


async def test_the_request_hook_changes_what_the_server_gets() -> None:
    """On every attempt, also one that continues an answer."""
    for again in (False, True):
        bench = Bench(hooks=Hooks(request=EXAMPLES.add_rules))
        await (bench.run_again(position=1, text="a", tokens=1, lane="lane0", model="m1") if again else bench.run())
        (request,) = bench.provider.requests
        assert [message.role for message in request.messages] == ["system", "user"]


def refuses(request: ChatRequest) -> ChatRequest:
    raise BadRequest("not today")


def fails(request: ChatRequest) -> ChatRequest:
    raise KeyError(SECRET)


@pytest.mark.parametrize(("hook", "error"), [(refuses, BadRequest), (fails, HookFailed)])
async def test_a_request_hook_that_raises(hook: RequestHook, error: type[BadRequest | HookFailed]) -> None:
    """The request ends before the server is asked."""
    bench = Bench(hooks=Hooks(request=hook))
    await bench.run()
    ending, end, code, message = bench.ending
    assert (ending, end, code) == ("failed", 0, error.code)
    assert isinstance(message, Failed)
    assert ("not today" in message.error.message) == (error is BadRequest)
    assert SECRET not in message.error.message
    assert (bench.provider.requests, bench.heartbeat.faults) == ([], [])
