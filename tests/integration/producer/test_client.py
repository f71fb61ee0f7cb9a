"""An agent's client against a real server, the worker played by the test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack

import pytest
from tests.integration.clients import link_of, quick_client
from tests.integration.life import PREFIX, WORKER, beat, dispatch, raw, state_of
from tests.integration.stand_in import Run, StandIn, stand_in
from tests.traces import recorded_spans
from tests.waiting import until

from tokenlane.producer import (
    Answer,
    BadRequest,
    ChatStream,
    Client,
    DeadlineExceeded,
    Interrupted,
    LlmError,
    Message,
    PoolUnavailable,
    ProviderDown,
    QueueFull,
    RequestCancelled,
    TokenDelta,
    ToolCallDelta,
    Unauthorized,
)
from tokenlane.producer.client import PoolKeys
from tokenlane.producer.link.redis.timings import Timings
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.beats import Beats, CheckReply
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import Requests
from tokenlane.routing.telemetry import conventions as names


async def subscribers(pool: Pool, request_id: str) -> int:
    """How many connections listen to the request's channel."""
    ((_, count),) = await raw(pool).pubsub_numsub(pool.keys.deltas(request_id))
    return int(count)


async def becomes(pool: Pool, request_id: str, *states: str) -> str:
    """Wait until the request is in one of the states; the one it is in."""
    async with asyncio.timeout(20):
        while (state := await state_of(pool, request_id)) not in states:
            await asyncio.sleep(0.005)
    return state


async def texts(stream: ChatStream) -> list[str]:
    """Read the stream to its end."""
    return [delta.text async for delta in stream if delta.text]


async def test_a_channel_is_left_when_its_answer_has_ended(client: Client, worker: StandIn, pool: Pool) -> None:
    """A client listens for a request from its submission to its end, and no longer."""
    async with client.chat("hello", role="planner") as stream:
        assert await subscribers(pool, stream.request_id) == 1
        await (await worker.next_run()).complete()
        await stream.answer()
        async with asyncio.timeout(10):
            while await subscribers(pool, stream.request_id):
                await asyncio.sleep(0.005)


async def test_an_answer_is_streamed(client: Client, worker: StandIn, pool: Pool) -> None:
    """Deltas come as they are said, in order, each with where it comes from; text and cost are on the stream."""
    async with client.chat("Name three primes.", role="planner", max_tokens=9) as stream:
        run = await worker.next_run()
        assert run.request.messages == [Message(role="user", content="Name three primes.")]
        assert run.request.max_tokens == 9
        await run.say("2", ", 3")
        first, second = await anext(stream), await anext(stream)
        assert (first.text, first.position, first.request_id) == ("2", 0, stream.request_id)
        assert (second.text, second.position, second.lane, second.model) == (", 3", 1, "lane1", "m1")
        assert second.attempt == run.attempt
        assert (stream.waiting, stream.usage) == (None, None)
        await run.complete(", 5")
        assert await texts(stream) == [", 5"]
        assert stream.text == "2, 3, 5"
        assert stream.usage is not None
        assert stream.usage.completion_tokens == 4
        assert await stream.answer() == Answer(
            request_id=stream.request_id,
            text="2, 3, 5",
            finish_reason="stop",
            usage=stream.usage,
            model="m1",
            lane="lane1",
        )
    assert await state_of(pool, stream.request_id) == "completed"


async def test_complete_gives_the_whole_answer(client: Client, worker: StandIn) -> None:
    """`complete` waits for the end; tool calls are put together from their pieces."""
    asked = asyncio.create_task(client.complete([{"role": "user", "content": "weather?"}], role="coder"))
    run = await worker.next_run()
    await run.say("Let me look.")
    await run.send([TokenDelta(tool_calls=(ToolCallDelta(index=0, id="a", name="f", arguments='{"x"'),))])
    await run.send([TokenDelta(tool_calls=(ToolCallDelta(index=1, id="b", name="g"),))])
    await run.send([TokenDelta(reasoning="hm", tool_calls=(ToolCallDelta(index=0, arguments=":1}"),))])
    await run.complete(finish_reason="tool_calls")
    answer = await asked
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("Let me look.", "hm", "tool_calls")
    assert [(call.id, call.name, call.arguments) for call in answer.tool_calls] == [
        ("a", "f", '{"x":1}'),
        ("b", "g", ""),
    ]


async def test_nothing_is_sent_before_entering(client: Client, pool: Pool) -> None:
    """A stream that is not entered does not reach the pool, and says so when it is used."""
    stream = client.chat("hello", role="planner")
    assert await state_of(pool, stream.request_id) == "missing"
    assert (stream.text, stream.usage, stream.waiting) == ("", None, None)
    with pytest.raises(RuntimeError, match=r"async with client\.chat"):
        await anext(stream)


async def test_leaving_early_cancels(client: Client, worker: StandIn, pool: Pool) -> None:
    """Leaving the block before the end cancels the request and tells its worker; the primary error stays itself."""
    stream = client.chat("hello", role="planner")

    async def ask() -> None:
        async with stream:
            await anext(stream)
            raise ZeroDivisionError

    asked = asyncio.create_task(ask())
    run = await worker.next_run()
    await run.say("a")
    with pytest.raises(ZeroDivisionError):
        await asked
    async with asyncio.timeout(10):
        await run.cancelled.wait()
    with pytest.raises(RequestCancelled):
        await stream.answer()


async def test_leaving_while_it_waits_cancels(client: Client, pool: Pool) -> None:
    """A request that no lane has taken is cancelled at once."""
    async with client.chat("hello", role="planner") as stream:
        assert await state_of(pool, stream.request_id) == "waiting"
    assert await state_of(pool, stream.request_id) == "cancelled"


async def test_cancel_ends_the_iterator(client: Client, worker: StandIn, pool: Pool) -> None:
    """After `cancel` what had come is still handed out, then `RequestCancelled` is raised."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a", "b")
        await until(lambda: stream.text == "ab")
        await stream.cancel()
        assert (await anext(stream)).text == "a"
        assert (await anext(stream)).text == "b"
        with pytest.raises(RequestCancelled):
            await anext(stream)
    async with asyncio.timeout(10):
        await run.cancelled.wait()


async def test_cancelling_the_agents_task_cancels_the_request(client: Client, worker: StandIn) -> None:
    """A task's own cancellation is a CancelledError, and its request is cancelled."""

    async def ask() -> None:
        async with client.chat("hello", role="planner") as stream:
            async for _ in stream:
                pass

    asked = asyncio.create_task(ask())
    run = await worker.next_run()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    async with asyncio.timeout(10):
        await run.cancelled.wait()


async def test_cancelling_while_submitting_cancels_the_request(
    client: Client, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that is cancelled while its request is on the way leaves nothing behind in the pool."""
    submitting = asyncio.Event()
    submit = Requests.submit

    async def slow(self: Requests, *args: object, **more: object) -> object:
        submitting.set()
        await asyncio.sleep(0.05)
        return await submit(self, *args, **more)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(Requests, "submit", slow)
    stream = client.chat("hello", role="planner")
    asked = asyncio.create_task(stream.__aenter__())
    await submitting.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await becomes(pool, stream.request_id, "cancelled") == "cancelled"


async def test_a_dropped_stream_warns_and_cancels(client: Client, worker: StandIn) -> None:
    """A stream nobody holds any more warns, and its request is cancelled within one turn of the loop."""
    stream = await client.chat("hello", role="planner").__aenter__()
    run = await worker.next_run()
    assert run.id in link_of(client)
    with pytest.warns(ResourceWarning, match=stream.request_id):
        del stream
    await asyncio.sleep(0)
    assert run.id not in link_of(client)
    async with asyncio.timeout(10):
        await run.cancelled.wait()


async def test_a_dropped_coroutine_cancels(client: Client, worker: StandIn) -> None:
    """An agent's coroutine that is closed in the middle of its stream cancels the request."""

    async def ask() -> AsyncGenerator[str, None]:
        async with client.chat("hello", role="planner") as stream:
            async for delta in stream:
                yield delta.text

    agent = ask()
    reading = asyncio.ensure_future(anext(agent))  # anext() gives an awaitable, no coroutine
    run = await worker.next_run()
    await run.say("a")
    assert await reading == "a"
    await agent.aclose()
    async with asyncio.timeout(10):
        await run.cancelled.wait()


async def test_the_client_ends_its_streams(redis_url: str, pool: Pool) -> None:
    """When a client closes, open streams end with RequestCancelled, on the server too, and the client is forgotten."""
    async with stand_in(pool) as worker:
        async with Client(redis_url) as client:
            streams = [await client.chat("hello", role="planner").__aenter__() for _ in range(3)]
            readers = [asyncio.create_task(stream.answer()) for stream in streams]
            runs = [await worker.next_run() for _ in streams]
        for reader in readers:
            with pytest.raises(RequestCancelled):
                await reader
        async with asyncio.timeout(10):
            for run in runs:
                await run.cancelled.wait()
    assert await raw(pool).zcard(f"{PREFIX}clients") == 1
    with pytest.raises(RuntimeError, match=r"async with Client"):
        client.chat("hello", role="planner")


async def test_an_error_in_the_block_stays_itself(redis_url: str, pool: Pool) -> None:
    """What an agent raises inside the client's block is not wrapped."""
    with pytest.raises(ZeroDivisionError):
        async with Client(redis_url):
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("redis://127.0.0.1:1", r"127\.0\.0\.1:1\b.*`tokenlane up`"),
        ("http://127.0.0.1:1", "'http://127.0.0.1:1'.*redis://HOST:PORT"),
        ("unix:///nowhere/redis.sock", "/nowhere/redis.sock.*`tokenlane up`"),
    ],
)
async def test_no_pool(url: str, names: str) -> None:
    """Connecting to what is no pool fails at once with what to do."""
    with pytest.raises(PoolUnavailable, match=names):
        async with Client(url):
            pass


@pytest.mark.parametrize("messages", [[], "\ud800", [{"role": "user", "content": "\udfff"}], [{"role": "nobody"}]])
async def test_a_wrong_request(client: Client, pool: Pool, messages: object) -> None:
    """A request that is not valid is refused before anything is sent."""
    stream = client.chat(messages, role="planner")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(BadRequest):
        async with stream:
            pass
    assert await state_of(pool, stream.request_id) == "missing"


async def test_a_full_queue(client: Client, pool: Pool) -> None:
    """A request over a limit is refused when its stream is entered. The error says when to try again."""
    await pool.policies.write(Policy(depth=1))
    second = client.chat("two", role="planner")
    async with client.chat("one", role="planner"):
        with pytest.raises(QueueFull) as refused:
            async with second:
                pass
    assert refused.value.retry_after_s is not None
    assert refused.value.request_id == second.request_id


async def test_errors_come_as_themselves(client: Client, worker: StandIn) -> None:
    """A failed request raises its error in the agent, after what was said before it."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        await run.fail(Unauthorized("the key is wrong", provider="sim", lane="lane1", detail="secret"))
        assert (await anext(stream)).text == "a"
        with pytest.raises(Unauthorized) as failed:
            await anext(stream)
    assert (failed.value.message, failed.value.detail, failed.value.lane) == ("the key is wrong", "secret", "lane1")
    assert "secret" not in str(failed.value)


async def test_what_breaks_off_is_interrupted(client: Client, worker: StandIn) -> None:
    """A retryable failure in the middle of an answer is Interrupted, with the text so far and the cause."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("half an ")
        await run.fail(ProviderDown("gone", lane="lane1"))
        with pytest.raises(Interrupted) as failed:
            await texts(stream)
    assert failed.value.partial == "half an "
    assert isinstance(failed.value.__cause__, ProviderDown)
    assert "half" not in repr(failed.value)


async def test_the_deadline_comes_from_the_pool(client: Client, worker: StandIn) -> None:
    """A request whose time to live passes raises DeadlineExceeded, which says why the request has not started."""
    with pytest.raises(DeadlineExceeded) as failed:
        await client.complete("hello", role="planner", time_to_live_ms=50, model="nobody-has-this")
    assert "did not start" in failed.value.message


async def test_the_client_keeps_the_deadline_too(redis_url: str, pool: Pool) -> None:
    """Where no router looks after deadlines, the client does, and cancels."""
    async with quick_client(redis_url, Timings(deadline_grace_s=0.05)) as client:
        async with client.chat("hello", role="planner", time_to_live_ms=50) as stream:
            with pytest.raises(DeadlineExceeded):
                await stream.answer()
    assert await becomes(pool, stream.request_id, "cancelled") == "cancelled"


async def test_waiting_says_why(redis_url: str, pool: Pool) -> None:
    """A stream that has not started says why, and nothing any more once it has."""
    async with (
        quick_client(redis_url, Timings(beat_every_s=0.02)) as client,
        client.chat("hello", role="planner") as stream,
    ):

        async def said(text: str) -> None:
            await until(lambda: text in (stream.waiting or ""))

        await said("No lane is connected")
        await beat(pool)
        await pool.beats.sweep("host/router1")
        await said("lane 'lane1' has a free slot")
        attempt = await dispatch(pool, stream.request_id)
        assert attempt is not None
        await said("lane 'lane1' has the request")
        assert await pool.requests.start(stream.request_id, attempt, WORKER) is not None
        await until(lambda: stream.waiting is None)
        assert await pool.requests.requeue(stream.request_id, attempt, WORKER, due_ms=60_000) == "delayed"
        await said("last attempt ended with")


async def test_a_lane_that_is_away_is_waited_for(redis_url: str, pool: Pool) -> None:
    """A request whose only lane was there within the hour waits for it, and says so."""
    timings = Timings(beat_every_s=0.02, all_heard_ms=lambda _: 0)
    await pool.policies.write(Policy(lease_ms=300, patience_ms=0))
    await beat(pool)
    async with quick_client(redis_url, timings) as client, client.chat("hello", role="planner") as stream:
        await until(lambda: "lane 'lane1' lost its last worker" in (stream.waiting or ""))
        await beat(pool)
        assert await dispatch(pool, stream.request_id) is not None


@pytest.mark.parametrize("patience_ms", [100, 600_000])
async def test_a_deserted_pool_ends_a_request(redis_url: str, pool: Pool, patience_ms: int) -> None:
    """Where no worker was within the hour, and no router says so, the client does once the request has waited for as
    long as the policy says: with what to do, and it cancels. A worker that lives has had the time to beat by then."""
    timings = Timings(beat_every_s=0.02, all_heard_ms=lambda lease_ms: lease_ms // 10)
    await pool.policies.write(Policy(lease_ms=3_000, patience_ms=patience_ms))
    async with quick_client(redis_url, timings) as client:
        await until(lambda: link_of(client).view.is_empty)
        began = asyncio.get_running_loop().time()
        async with client.chat("hello", role="planner") as stream:
            if patience_ms > 1_000:
                await until(lambda: asyncio.get_running_loop().time() - began > 1)
                assert "No lane is connected" in (stream.waiting or "")
                return
            with pytest.raises(ProviderDown, match="tokenlane up"):
                await stream.answer()
            assert asyncio.get_running_loop().time() - began >= 0.3
            assert await becomes(pool, stream.request_id, "cancelled") == "cancelled"


async def test_a_slow_reader_loses_nothing(client: Client, worker: StandIn) -> None:
    """What is not read is merged, so that it is bounded, and nothing of it is lost."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        words = [f"{number} " for number in range(5000)]
        for start in range(0, len(words), 500):
            await run.say(*words[start : start + 500])
        await run.complete()
        await until(lambda: stream.usage is not None)
        deltas = [delta async for delta in stream]
    assert "".join(delta.text for delta in deltas) == "".join(words)
    assert len(deltas) < 1100


async def test_many_streams_share_one_connection(client: Client, worker: StandIn, pool: Pool) -> None:
    """A hundred streams at once each get their own answer, over one pub/sub connection."""

    async def ask(number: int) -> str:
        return (await client.complete(f"say {number}", role="planner")).text

    async def answer(run: Run) -> None:
        content = run.request.messages[0].content
        assert isinstance(content, str)
        for piece in content.split():
            await run.say(piece)
        await run.complete()

    asked = [asyncio.create_task(ask(number)) for number in range(100)]
    runs = [await worker.next_run() for _ in asked]
    subscribed = [one for one in await raw(pool).client_list() if int(one["sub"]) > 0]
    of_worker, of_client = sorted(int(one["sub"]) for one in subscribed)
    assert (of_worker, of_client > 100) == (2, True)
    await asyncio.gather(*(answer(run) for run in runs))
    assert [await one for one in asked] == [f"say{number}" for number in range(100)]


async def test_nothing_said_is_logged(
    client: Client, worker: StandIn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither questions nor answers are in logs, reprs or errors, even when a message cannot be read."""
    caplog.set_level(logging.DEBUG)
    async with client.chat("my secret question", role="planner") as stream:
        run = await worker.next_run()
        await run.say("my secret answer")
        await until(lambda: bool(stream.text))
        await run._pool.publish([(run._pool.keys.deltas(run.id), b'{"type":"deltas","deltas":"secret"}')])
        shown = [repr(stream), repr(client), repr(stream._request), repr(await anext(stream))]
        await run.fail(LlmError("broken", detail="secret detail"))
        with pytest.raises(Interrupted) as failed:
            await stream.answer()
    shown += [str(failed.value), repr(failed.value), caplog.text]
    assert not [one for one in shown if "secret" in one]


async def test_a_client_is_entered_in_any_task(redis_url: str, pool: Pool) -> None:
    """A client may be left by another task than entered it, as test frameworks do."""
    client = Client(redis_url)
    await asyncio.create_task(client.__aenter__())
    await asyncio.create_task(client.__aexit__(None, None, None))
    assert await raw(pool).zcard(f"{PREFIX}clients") == 0


async def test_a_client_is_entered_once(redis_url: str) -> None:
    """Entered again inside its block it says so, and goes on working; afterwards it may be entered again."""
    client = Client(redis_url)
    for _ in range(2):
        async with client:
            with pytest.raises(RuntimeError) as refused:
                await client.__aenter__()
            assert "async with" not in str(refused.value), "it is open"
            assert client.chat("hello", role="planner").request_id


@pytest.mark.parametrize("url", [5, b"redis://:secret@host", ""])
def test_a_url_is_text(url: str) -> None:
    """What is no URL is refused at once, and not quoted."""
    with pytest.raises(TypeError, match="`url`") as refused:
        Client(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("key", [7, b"tlk1-secret", [b"tlk1-secret"], {"secret": 1}])
def test_a_key_is_text(key: PoolKeys) -> None:
    """What is no key is refused at once, and not quoted."""
    with pytest.raises(TypeError, match="`key`") as refused:
        Client("redis://127.0.0.1:1", key=key)
    assert "secret" not in str(refused.value)


async def test_the_beat_asks_after_all_silent_streams(
    redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every silent stream is asked after, 128 at most a call, and the client beats without any stream too."""
    calls: list[tuple[str, ...]] = []
    check = Beats.check

    async def recorded(
        self: Beats, client: str, request_ids: Sequence[str] = (), *, held: int | None = None
    ) -> CheckReply:
        calls.append(tuple(request_ids))
        return await check(self, client, request_ids, held=held)

    monkeypatch.setattr(Beats, "check", recorded)
    async with quick_client(redis_url) as client, AsyncExitStack() as stack:
        await until(lambda: len(calls) > 3)
        assert set(calls) == {()}
        streams = [await stack.enter_async_context(client.chat("hi", role="planner")) for _ in range(300)]
        wanted = {stream.request_id for stream in streams}
        await until(lambda: {one for call in calls for one in call} == wanted)
        assert max(map(len, calls)) <= 128


async def test_the_trace_travels_in_the_envelope(
    client: Client, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's span can be the child of the agent's: W3C trace context is in the envelope, no words in the span."""
    spans = recorded_spans(monkeypatch)
    async with client.chat("my secret question", role="planner"):
        run = await worker.next_run()
    await until(lambda: bool(spans.get_finished_spans()))
    (span,) = spans.get_finished_spans()
    assert (span.name, dict(span.attributes or {})[names.OUTCOME]) == ("llm.request", "cancelled")
    assert span.context is not None
    assert f"{span.context.trace_id:032x}-{span.context.span_id:016x}" in run.envelope.trace["traceparent"]
    assert "secret" not in span.to_json()


@pytest.mark.parametrize("wrong", [{"agent": "no name"}, {"agent": "-x"}, {"pool": "a}b"}, {"pool": ""}])
def test_names_are_checked(wrong: dict[str, str]) -> None:
    """What cannot be part of a key is refused when the client is made."""
    with pytest.raises(ValueError, match=repr(next(iter(wrong.values())))):
        Client("redis://127.0.0.1:1", **wrong)  # type: ignore[arg-type]  # these are names alone
