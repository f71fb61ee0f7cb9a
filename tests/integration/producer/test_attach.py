"""Joining a request that runs or has just ended, and asking twice with one idempotency key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.integration.clients import link_of, quick_client
from tests.integration.life import PREFIX, audit, pass_lease, raw, state_of, submit, sweep, vanish
from tests.integration.producer.test_client import becomes, texts
from tests.integration.stand_in import StandIn, stand_in
from tests.waiting import until

from tokenlane.producer import (
    BadRequest,
    ChatStream,
    Client,
    Duplicate,
    Interrupted,
    ProviderDown,
    RequestCancelled,
    RequestLost,
    TokenDelta,
)
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool


@pytest.fixture
async def first(redis_url: str) -> AsyncIterator[Client]:
    async with quick_client(redis_url, agent="agent1") as client:
        yield client


@pytest.fixture
async def second(redis_url: str) -> AsyncIterator[Client]:
    async with quick_client(redis_url, agent="agent1") as client:
        yield client


async def owner(pool: Pool, request_id: str) -> str:
    """The client that owns the request."""
    return str((await raw(pool).hget(f"{PREFIX}request:{request_id}", "client")).decode())


async def read(stream: ChatStream, count: int) -> list[TokenDelta]:
    """The next deltas."""
    return [await anext(stream) for _ in range(count)]


@pytest.mark.parametrize(("after", "rest"), [(None, "abcdef"), (-1, "abcdef"), (0, "bcdef"), (3, "ef"), (5, "")])
async def test_a_running_request_is_joined(
    first: Client, second: Client, worker: StandIn, pool: Pool, after: int | None, rest: str
) -> None:
    """A second client is given everything after the position it has, from the worker's memory and then live."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a", "b")
        await run.say("c", "d")
        await until(lambda: stream.text == "abcd")
        async with second.attach(stream.request_id, after=after) as joined:
            assert await owner(pool, stream.request_id) == link_of(second).client
            await run.say("e")
            await run.complete("f")
            assert "".join(await texts(joined)) == rest
            assert (await joined.answer()).text == joined.text == rest
        assert "".join(await texts(stream)) == "abcdef"
        assert joined.usage == stream.usage
    await audit(raw(pool))


async def test_what_was_said_comes_before_what_follows(first: Client, second: Client, worker: StandIn) -> None:
    """Who attaches is given what has been said already at once, and not only with the next word."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a", "b")
        async with second.attach(stream.request_id, after=0) as joined:
            assert [delta.position for delta in await read(joined, 1)] == [1]
            assert joined.waiting is None


async def test_a_waiting_request_is_joined(first: Client, second: Client, pool: Pool) -> None:
    """A request that waits is joined too; the stream says what it waits for, and has its deadline."""
    async with first.chat("hello", role="planner") as stream:
        async with second.attach(stream.request_id) as joined:
            await until(lambda: "No lane is connected" in (joined.waiting or ""))
            async with stand_in(pool) as worker:
                run = await worker.next_run()
                await run.complete("a")
                assert await texts(joined) == await texts(stream) == ["a"]


@pytest.mark.parametrize("after", [None, 1, 2])
async def test_an_ended_request_is_told_from_memory(
    first: Client, second: Client, worker: StandIn, after: int | None
) -> None:
    """Shortly after its end the worker still has the answer, its end and its usage."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a", "b")
        await run.complete("c")
        await stream.answer()
    async with second.attach(stream.request_id, after=after) as joined:
        assert "".join(await texts(joined)) == "abc"[0 if after is None else after + 1 :]
        assert joined.usage == stream.usage


async def test_an_ended_request_nobody_has_any_more(first: Client, second: Client, worker: StandIn) -> None:
    """Later the answer is gone, and the error says so; who has all of it is told that it is whole."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        run.forgetful = True
        await run.complete("a")
        await stream.answer()
    async with second.attach(stream.request_id) as joined:
        with pytest.raises(Interrupted):
            await joined.answer()
    async with second.attach(stream.request_id, after=1) as joined:
        assert await texts(joined) == []


async def test_how_a_request_failed_is_told(first: Client, second: Client, worker: StandIn, pool: Pool) -> None:
    """Who attaches to a request that failed, or was cancelled while it waited, is told that."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        run.forgetful = True
        await run.fail(ProviderDown("gone"))
        with pytest.raises(ProviderDown):
            await stream.answer()
    async with second.attach(stream.request_id) as joined:
        with pytest.raises(ProviderDown):
            await joined.answer()
    async with first.chat("hello", role="planner", model="nobody-has-this") as waiting:
        await waiting.cancel()
    async with second.attach(waiting.request_id) as joined:
        with pytest.raises(RequestCancelled):
            await joined.answer()


async def test_what_cannot_be_joined(first: Client, worker: StandIn) -> None:
    """An unknown request, one that ended before the position, and what is no id or position are errors."""
    with pytest.raises(RequestLost):
        async with first.attach(new_id()):
            pass
    async with first.chat("hello", role="planner") as stream:
        await (await worker.next_run()).complete("a")
        await stream.answer()
    with pytest.raises(BadRequest, match=r"\b1\b"):
        async with first.attach(stream.request_id, after=2):
            pass
    for wrong, position in (("xyz", 0), (new_id(), -2)):
        with pytest.raises(ValueError, match="request_id"):
            first.attach(wrong, after=position)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("forgetful", [False, True])
async def test_a_position_the_answer_never_comes_to(
    first: Client, second: Client, worker: StandIn, lost: bool, forgetful: bool
) -> None:
    """Who joins a running request beyond its end is told so when it ends, as one is that comes later."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        run.forgetful = forgetful
        await run.say("a")
        assert [one.text for one in await read(stream, 1)] == ["a"]
        async with second.attach(stream.request_id, after=5000) as joined:
            await run.complete("b", lost=lost)
            with pytest.raises(BadRequest, match=r"\b2\b"):
                await joined.answer()
            with pytest.raises(BadRequest):
                await anext(joined)


async def test_the_last_to_attach_owns_it(first: Client, second: Client, worker: StandIn, pool: Pool) -> None:
    """Who attached last owns the request: the other reads on, but its leaving cancels nothing; the owner's does."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        async with second.attach(stream.request_id) as joined:
            await run.say("a")
            assert [one.text for one in await read(stream, 1)] == ["a"]
            await stream.__aexit__(None, None, None)
            await run.say("b")
            assert [one.text for one in await read(joined, 2)] == ["a", "b"]
            assert await state_of(pool, stream.request_id) == "running"
            assert not run.cancelled.is_set()
        async with asyncio.timeout(10):
            await run.cancelled.wait()


async def test_news_of_the_owner_that_are_lost(
    first: Client, second: Client, worker: StandIn, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has not heard that another owns the request now cancels nothing all the same, and learns it by its beat."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        monkeypatch.setattr("tokenlane.producer.link.redis.redis_link.RedisLink._receive", lambda *_: None)
        await pool.requests.attach(link_of(second).client, stream.request_id)
        monkeypatch.undo()
        assert await pool.requests.cancel(stream.request_id, link_of(first).client) == "kept"
        (request,) = link_of(first)
        await until(lambda: not request.owned)
    assert await state_of(pool, stream.request_id) == "running"
    assert await second.cancel(stream.request_id) is True
    async with asyncio.timeout(10):
        await run.cancelled.wait()


async def test_anybody_may_cancel(first: Client, second: Client, worker: StandIn, pool: Pool) -> None:
    """`cancel` ends the request for all, whoever owns it; of an unknown one it says so."""
    async with first.chat("hello", role="planner") as stream, second.attach(stream.request_id) as joined:
        run = await worker.next_run()
        await stream.cancel()
        async with asyncio.timeout(10):
            await run.cancelled.wait()
        await pool.requests.finish(
            run.id, run.attempt, run.worker, "cancelled", 0, "", b'{"type":"cancelled","attempt":%d}' % run.attempt
        )
        with pytest.raises(RequestCancelled):
            await joined.answer()
    assert await second.cancel(stream.request_id) is True
    assert await second.cancel(new_id()) is False


async def test_two_streams_of_one_client(first: Client, worker: StandIn, pool: Pool) -> None:
    """A client may attach to its own request; the last of its streams to leave cancels it."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        await run.say("a")
        async with first.attach(stream.request_id) as joined:
            assert [one.text for one in await read(joined, 1)] == ["a"]
        await run.say("b")
        assert [one.text for one in await read(stream, 2)] == ["a", "b"]
        assert not run.cancelled.is_set()
        assert await state_of(pool, stream.request_id) == "running"
    async with asyncio.timeout(10):
        await run.cancelled.wait()


async def test_a_vanished_owner_is_replaced(first: Client, second: Client, worker: StandIn, pool: Pool) -> None:
    """If a client vanishes, what another has attached to is not taken for an orphan; what nobody has is."""
    async with first.chat("hello", role="planner") as kept, first.chat("hello", role="planner") as orphan:
        runs = {run.id: run for run in [await worker.next_run(), await worker.next_run()]}
        async with second.attach(kept.request_id) as joined:
            await vanish(pool, link_of(first).client)
            await sweep(pool)
            async with asyncio.timeout(10):
                await runs[orphan.request_id].cancelled.wait()
            await runs[kept.request_id].complete("a")
            assert await texts(joined) == ["a"]


async def test_a_later_attempt_asks_the_owner(first: Client, second: Client, worker: StandIn, pool: Pool) -> None:
    """A later attempt hears from the owner alone how far the answer has got; a listener who has more breaks off."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        run.forgetful = True
        await run.say("a", "b")
        assert [one.text for one in await read(stream, 2)] == ["a", "b"]
        async with second.attach(stream.request_id) as joined:
            worker.beating = False
            await pass_lease(pool, run.id)
            await sweep(pool)
            worker.beating = True
            again = await worker.next_run()
            handover = await again.ask_resume()
            assert (handover.state, handover.position) == ("open", 0)
            await again.complete("x", "y", "z")
            assert await texts(joined) == ["x", "y", "z"]
            with pytest.raises(Interrupted) as broken:
                await anext(stream)
            assert broken.value.partial == "ab"


async def test_a_wiped_server_knows_the_owner_again(first: Client, second: Client, worker: StandIn, pool: Pool) -> None:
    """A worker brings a forgotten request back under the client that sent it; the owner takes it over again."""
    async with first.chat("hello", role="planner") as stream:
        run = await worker.next_run()
        async with second.attach(stream.request_id) as joined:
            await raw(pool).flushall()

            async def owned() -> None:
                async with asyncio.timeout(20):
                    while (
                        await state_of(pool, run.id) != "running" or await owner(pool, run.id) != link_of(second).client
                    ):
                        await asyncio.sleep(0.01)

            await owned()
            await run.complete("a")
            assert await texts(joined) == ["a"]


async def test_an_unsent_request_of_another_that_is_lost(first: Client, second: Client, pool: Pool) -> None:
    """A waiting request that the server has lost is sent again by the client that has it, and by no other."""
    request_id = await submit(pool)
    async with second.attach(request_id) as joined:
        await raw(pool).flushall()
        await pool.policies.write(Policy(lease_ms=300))
        with pytest.raises(RequestLost):
            await joined.answer()


# Idempotency keys.


async def test_a_key_that_is_running_attaches(first: Client, second: Client, worker: StandIn, pool: Pool) -> None:
    """The same key of the same agent joins the running request from its beginning: it runs once, both have it whole."""
    async with first.chat("hello", role="planner", idempotency_key="my key") as stream:
        run = await worker.next_run()
        await run.say("a")
        async with second.chat("hello", role="planner", idempotency_key="my key") as joined:
            assert joined.request_id == stream.request_id
            async with first.chat("hello", role="planner", idempotency_key="my key") as third:
                await run.complete("b")
                assert [await texts(one) for one in (stream, joined, third)] == [["a", "b"]] * 3
    assert len(worker.runs) == 1
    assert not [key for key in await raw(pool).keys("*") if b"my key" in key]


async def test_a_key_that_has_ended_is_a_duplicate(first: Client, second: Client, worker: StandIn, pool: Pool) -> None:
    """A key whose request has ended is refused with that request's id, which can still be attached to."""
    async with first.chat("hello", role="planner", idempotency_key="k") as stream:
        await (await worker.next_run()).complete("a")
        await stream.answer()
    with pytest.raises(Duplicate, match=stream.request_id) as refused:
        await second.complete("hello", role="planner", idempotency_key="k")
    assert refused.value.request_id == stream.request_id
    async with second.attach(refused.value.request_id) as joined:
        assert await texts(joined) == ["a"]
    (key,) = await raw(pool).keys(f"{PREFIX}idem:*")
    assert 0 < await raw(pool).ttl(key) <= 3600
    of_key, of_request = [await raw(pool).expiretime(name) for name in (key, f"{PREFIX}request:{stream.request_id}")]
    assert abs(of_key - of_request) <= 1


async def test_keys_are_an_agents_own(first: Client, redis_url: str, worker: StandIn) -> None:
    """Another agent's key, and another key, are other requests."""
    async with quick_client(redis_url, agent="agent2") as other:
        async with first.chat("hello", role="planner", idempotency_key="k") as one:
            async with other.chat("hello", role="planner", idempotency_key="k") as two:
                async with first.chat("hello", role="planner", idempotency_key="l") as three:
                    assert len({one.request_id, two.request_id, three.request_id}) == 3


@pytest.mark.parametrize("times", [2, 20])
async def test_one_key_many_at_once(first: Client, second: Client, worker: StandIn, pool: Pool, times: int) -> None:
    """However many ask with one key at once, from two clients, one request runs and all have its answer."""
    asked = [
        asyncio.create_task(client.complete("hello", role="planner", idempotency_key="k"))
        for client in (first, second)
        for _ in range(times // 2)
    ]
    run = await worker.next_run()
    await run.say("a")
    readers = (link_of(first), link_of(second))
    await until(lambda: sum(request.id == run.id for link in readers for request in link) == times)
    await run.complete("b")
    assert {(answer.request_id, answer.text) for answer in await asyncio.gather(*asked)} == {(run.id, "ab")}
    assert len(worker.runs) == 1
    await audit(raw(pool))


async def test_a_key_that_was_cancelled_before_it_ran(first: Client, pool: Pool) -> None:
    """A key stays taken by a request that was cancelled: it has been asked."""
    async with first.chat("hello", role="planner", idempotency_key="k") as stream:
        pass
    assert await becomes(pool, stream.request_id, "cancelled") == "cancelled"
    with pytest.raises(Duplicate, match="cancelled"):  # how it ended
        await first.complete("hello", role="planner", idempotency_key="k")
