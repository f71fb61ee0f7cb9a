from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from unittest.mock import AsyncMock

import pytest
from tests.integration import life
from tests.integration.life import audit, raw
from tests.lanes import chats
from tests.waiting import until
from tests.workshop import Asker, FakeProvider, ask, serving

from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.contract.errors import LaneConflict, PoolUnavailable
from tokenlane.routing.contract.messages import Cancelled, Expired, Failed, Replay
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.hub import Hub, open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.claim import ClaimedAttempt
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.attempt.pipeline import run_request
from tokenlane.worker.lane.arq_worker import LaneWorker
from tokenlane.worker.run_and_drain import drain


@pytest.fixture
async def hub(pool: Pool) -> AsyncIterator[Hub]:
    """The agents' hub."""
    async with open_hub(pool) as hub:
        yield hub


async def give(pool: Pool, asker: Asker, lane: str = "lane1") -> int:
    """Dispatch the request by hand; its attempt."""
    attempt = await life.dispatch(pool, asker.id, lane)
    assert attempt is not None
    return attempt


async def all_slots_work(pool: Pool, hub: Hub, provider: FakeProvider, slots: int = 2) -> None:
    """As many requests as there are slots run at once and complete."""
    provider.hold_after, provider.holding = 0, 0
    provider.go.clear()
    askers = [await ask(pool, hub) for _ in range(slots)]
    for asker in askers:
        await give(pool, asker)
    await until(lambda: provider.holding == slots)
    provider.go.set()
    for asker in askers:
        await asker.completed()


async def settled(pool: Pool) -> None:
    """Wait until ARQ has cleared up too, then audit the server."""
    async with asyncio.timeout(10):
        while await raw(pool).keys("{main}:arq:*"):
            await asyncio.sleep(0.005)
    await audit(raw(pool))


async def test_a_dispatched_request_is_answered(redis_url: str, pool: Pool, hub: Hub) -> None:
    """The whole answer reaches the agent, its stream closed first, and nothing of the attempt is left."""
    provider = FakeProvider()
    async with serving(redis_url, provider):
        asker = await ask(pool, hub, provider.log)
        await give(pool, asker)
        ending = await asker.completed()
        assert (ending.usage.completion_tokens, ending.usage.attempts, ending.lane) == (3, 1, "lane1")
        assert provider.log == [f"opened {asker.id}", f"closed {asker.id}", f"ended {asker.id}"]
        await settled(pool)


async def test_a_limit_rises_and_falls_while_requests_run(redis_url: str, pool: Pool, hub: Hub) -> None:
    """The worker keeps to what it announces from the same step on; what was given to it by a limit that has fallen
    since goes back at once, and closes no lane."""
    await pool.policies.write(Policy(start_lease_ms=60_000))
    provider = FakeProvider(hold_after=1, slots=1)

    async def limit_becomes(limit: int) -> None:
        async with asyncio.timeout(10):
            while (await pool.survey()).lanes[0].offer.limit_of("chat") != limit:
                await asyncio.sleep(0.005)

    async with serving(redis_url, provider, bell=False) as (lane, worker):
        await worker.listen()
        first, second, third = [await ask(pool, hub) for _ in range(3)]
        await give(pool, first)
        await until(lambda: provider.running == 1)
        assert await life.dispatch(pool, second.id) is None
        provider.slots = 3
        await lane.models.announce_again()
        await limit_becomes(3)
        await give(pool, second)
        await until(lambda: provider.running == 2)

        provider.slots = 1
        async with lane.heartbeat._beat_lock:  # no router has heard of it yet
            await lane.models.announce_again()
            await give(pool, third)
        async with asyncio.timeout(10):
            while await life.state_of(pool, third.id) != "waiting":
                await asyncio.sleep(0.005)
        assert await raw(pool).hget(f"{life.PREFIX}request:{third.id}", "starts") == b"0"
        (seen,) = (await pool.survey()).lanes
        assert (seen.state, seen.offer.limit_of("chat"), provider.running) == ("up", 1, 2)

        provider.go.set()
        await first.completed()
        await second.completed()
        await give(pool, third)
        await third.completed()
        await settled(pool)


async def test_no_more_run_at_once_than_the_lane_takes(redis_url: str, pool: Pool, hub: Hub) -> None:
    """The pool gives no more than the limit, the worker runs no more, and the next starts when a slot is free."""
    provider = FakeProvider(hold_after=1)
    async with serving(redis_url, provider):
        askers = [await ask(pool, hub) for _ in range(6)]
        waiting = list(askers)
        while waiting:
            if await life.dispatch(pool, waiting[0].id) is not None:
                waiting.pop(0)
                continue
            await until(lambda: provider.holding == provider.running == 2)
            provider.go.set()
            # Credit comes back after the stream is closed: the lane must be empty before two more can be held.
            async with asyncio.timeout(15):
                while await raw(pool).zcard(pool.keys.lane_queue("lane1")):
                    await asyncio.sleep(0.005)
            provider.go.clear()
            provider.holding = 0
        provider.go.set()
        for asker in askers:
            await asker.completed()
        assert provider.most_running == 2
        await settled(pool)


async def test_two_workers_share_a_lane(redis_url: str, pool: Pool, hub: Hub) -> None:
    """Each request of a lane with two workers is started by one of them."""
    one, two = FakeProvider(slots=4), FakeProvider(slots=4)
    async with serving(redis_url, one), serving(redis_url, two):
        for _ in range(10):
            askers = [await ask(pool, hub) for _ in range(4)]
            for asker in askers:
                await give(pool, asker)
            for asker in askers:
                await asker.completed()
            await settled(pool)
    assert len(one.requests) + len(two.requests) == 40


async def test_jobs_are_found_without_a_bell(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A worker that hears no doorbell polls."""
    async with serving(redis_url, FakeProvider(), bell=False):
        for _ in range(2):
            asker = await ask(pool, hub)
            await give(pool, asker)
            await asker.completed()


@pytest.mark.parametrize("attack", ["{main}:arq:*", "*lane:lane1"])
async def test_lost_queue_keys_cost_no_request(attack: str, redis_url: str, pool: Pool, hub: Hub) -> None:
    """If all of ARQ's keys vanish, what runs completes, what was not started is swept back and runs."""
    provider = FakeProvider(hold_after=0, slots=4)
    async with serving(redis_url, provider, bell=False, poll_s=60.0) as (lane, worker):
        running = await ask(pool, hub)
        await give(pool, running)
        worker.wake()
        await until(lambda: provider.holding == 1)
        dispatched = await ask(pool, hub)
        await give(pool, dispatched)
        await raw(pool).delete(*await raw(pool).keys(attack))
        provider.go.set()
        await running.completed()
        await life.pass_lease(pool, dispatched.id)
        assert len((await life.sweep(pool)).lapsed) == 1
        await lane.heartbeat.beat()  # the lapse took the lane out
        async with asyncio.timeout(10):
            while await life.dispatch(pool, dispatched.id) is None:
                await asyncio.sleep(0.01)
        worker.wake()
        await dispatched.completed()
        await settled(pool)


async def test_cancelling_frees_the_model_server_first(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A running request that is cancelled has its stream closed before it ends; the slot is free again."""
    provider = FakeProvider(hold_after=1)
    async with serving(redis_url, provider):
        asker = await ask(pool, hub, provider.log)
        await give(pool, asker)
        await until(lambda: provider.holding == 1)
        assert await pool.requests.cancel(asker.id) == "flagged"
        assert isinstance(await asker.ended(), Cancelled)
        assert provider.log == [f"opened {asker.id}", f"closed {asker.id}", f"ended {asker.id}"]
        await all_slots_work(pool, hub, provider)
        await settled(pool)


async def test_a_lost_cancel_comes_with_the_next_beat(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A worker that misses the message on its control channel learns of the cancel when it renews."""
    await pool.policies.write(Policy(lease_ms=600))
    provider = FakeProvider(hold_after=1)
    async with serving(redis_url, provider) as (lane, _):
        lane.hub.unsubscribe(pool.keys.control(lane.worker))
        asker = await ask(pool, hub)
        await give(pool, asker)
        await until(lambda: provider.holding == 1)
        assert await pool.requests.cancel(asker.id) == "flagged"
        assert isinstance(await asker.ended(), Cancelled)


async def test_a_deadline_ends_a_running_request(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A request that runs when its time to live is over is expired by its worker."""
    provider = FakeProvider(hold_after=1)
    async with serving(redis_url, provider):
        asker = await ask(pool, hub, time_to_live_ms=200)
        await give(pool, asker)
        assert isinstance(await asker.ended(), Expired)
        assert provider.running == 0
        await settled(pool)


async def test_an_outdated_worker_stops(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A worker whose request was given to another closes its stream and says no more; the other's answer stands."""
    await pool.policies.write(Policy(lease_ms=600))
    old, new = FakeProvider(hold_after=0), FakeProvider()
    async with serving(redis_url, old, "lane1"), serving(redis_url, new, "lane2"):
        asker = await ask(pool, hub)
        await give(pool, asker, "lane1")
        await until(lambda: old.holding == 1)
        while await life.state_of(pool, asker.id) == "running":  # the worker's beat may come between
            await life.pass_lease(pool, asker.id)
            await life.sweep(pool)
        await give(pool, asker, "lane2")
        await asker.completed()
        assert asker.resumes >= 1
        await until(lambda: old.running == 0)
        assert [message.type for message in asker.messages].count("completed") == 1
        await settled(pool)


async def test_a_stolen_attempt_is_started_once(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A job whose attempt another worker has already started is dropped without opening a stream."""
    provider = FakeProvider()
    async with serving(redis_url, provider) as (_, worker):
        worker.allow_pick_jobs = False
        asker = await ask(pool, hub)
        attempt = await give(pool, asker)
        assert await pool.requests.start(asker.id, attempt, "thief") is not None
        worker.allow_pick_jobs = True
        worker.on_doorbell(f"{{main}}{asker.id}:{attempt}".encode())
        await until(lambda: worker.jobs_complete == 1)
        assert provider.requests == []
        assert await pool.requests.finish(
            asker.id, attempt, "thief", "cancelled", 0, "", Cancelled(attempt=attempt).to_wire()
        )
        await settled(pool)


async def test_a_job_that_rang_needs_no_look_at_the_queue(
    redis_url: str, pool: Pool, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doorbell names the job, which is started by its name."""
    async with serving(redis_url, FakeProvider()) as (_, worker):
        monkeypatch.setattr(worker, "_read_queue", AsyncMock())
        asker = await ask(pool, hub)
        await give(pool, asker)
        await asker.completed()
        await settled(pool)


async def test_a_bell_that_names_no_job_has_the_worker_look(redis_url: str, pool: Pool, hub: Hub) -> None:
    """Anybody may write to the channel; what waits is found all the same."""
    async with serving(redis_url, FakeProvider(), bell=False, poll_s=60.0) as (_, worker):
        asker = await ask(pool, hub)
        await give(pool, asker)
        for bell in (b"", b"\xff", b"{main}", b"}x:y", b'{"attempt": 1}\n{}\n'):
            worker.on_doorbell(bell)
        await asker.completed()
        await settled(pool)


async def test_a_job_that_rang_while_all_slots_were_taken_is_started_when_one_is_free(
    redis_url: str, pool: Pool, hub: Hub
) -> None:
    """It does not wait for the next look that is due, and a bell that is heard twice keeps no slot from another job."""
    provider = FakeProvider(hold_after=1, slots=4)
    async with serving(redis_url, provider, poll_s=60.0) as (lane, worker):
        lane.availability.announcement = replace(
            lane.availability.announcement, offer=chats(2)
        )  # of which no router has heard
        askers = [await ask(pool, hub) for _ in range(4)]
        for asker in askers:
            attempt = await give(pool, asker)
            worker.on_doorbell(f"{pool.keys.tag}{asker.id}:{attempt}".encode())
        await until(lambda: provider.holding == 2)
        for running, asker in enumerate(askers[:2], start=3):
            await pool.requests.cancel(asker.id)
            await until(lambda running=running: len(provider.requests) == running)  # type: ignore[misc]  # bound per turn
        provider.go.set()
        for asker in askers[2:]:
            await asker.completed()
        await settled(pool)


async def test_what_other_workers_started_meanwhile_is_not_asked_for(
    redis_url: str, pool: Pool, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much of what rang while all slots were taken is gone, what waits is started at once."""
    provider = FakeProvider(hold_after=1)
    async with serving(redis_url, provider, poll_s=60.0) as (lane, worker):
        lane.availability.announcement = replace(
            lane.availability.announcement, offer=chats(1)
        )  # of which no router has heard
        first, second = await ask(pool, hub), await ask(pool, hub)
        await give(pool, first)
        await until(lambda: provider.holding == 1)
        asked: list[str] = []
        start = lane.pool.requests.start

        async def count(request_id: str, attempt: int, name: str) -> ClaimedAttempt | None:
            asked.append(request_id)
            return await start(request_id, attempt, name)

        monkeypatch.setattr(lane.pool.requests, "start", count)
        for number in range(1000):
            worker.on_doorbell(f"{pool.keys.tag}{new_id()}:{number + 1}".encode())
        await give(pool, second)
        for number in range(1000):
            worker.on_doorbell(f"{pool.keys.tag}{new_id()}:{number + 1}".encode())
        provider.go.set()
        await second.completed()
        assert asked == [second.id]
        await settled(pool)


async def test_what_was_missed_while_all_slots_were_taken_is_looked_for_when_one_is_free(
    redis_url: str, pool: Pool, hub: Hub
) -> None:
    """The bells of a connection that broke then are not waited for until the next look is due."""
    provider = FakeProvider(hold_after=1)
    async with serving(redis_url, provider, bell=False, poll_s=60.0) as (lane, worker):
        lane.availability.announcement = replace(
            lane.availability.announcement, offer=chats(1)
        )  # of which no router has heard
        first, second = await ask(pool, hub), await ask(pool, hub)
        await give(pool, first)
        worker.wake()
        await until(lambda: provider.holding == 1)
        await give(pool, second)
        worker.wake()
        await until(lambda: not worker._woken.is_set())
        provider.go.set()
        await first.completed()
        await second.completed()
        await settled(pool)


async def test_an_attempt_outlives_arqs_record_of_it(redis_url: str, pool: Pool, hub: Hub) -> None:
    """What runs is run to its end though ARQ does not find its record of the job."""
    provider = FakeProvider()
    async with serving(redis_url, provider) as (_, worker):
        worker.allow_pick_jobs = False
        asker = await ask(pool, hub)
        attempt = await give(pool, asker)
        await raw(pool).delete(f"{{main}}:arq:job:{{main}}{asker.id}:{attempt}")
        worker.allow_pick_jobs = True
        worker.wake()
        await asker.completed()
        await settled(pool)


async def test_an_agent_gets_again_what_it_missed(redis_url: str, pool: Pool, hub: Hub) -> None:
    """Deltas and ending that were lost on the way are told again when the agent asks."""
    provider = FakeProvider(hold_after=2)
    async with serving(redis_url, provider) as (lane, _):
        asker = await ask(pool, hub)
        hub.unsubscribe(pool.keys.deltas(asker.id))
        attempt = await give(pool, asker)
        await until(lambda: provider.holding == 1)
        provider.go.set()
        async with asyncio.timeout(10):
            while await life.state_of(pool, asker.id) != "completed":
                await asyncio.sleep(0.005)
        await hub.subscribe(pool.keys.deltas(asker.id), asker.take)
        control = pool.keys.control(lane.worker)
        async with asyncio.timeout(10):
            while asker.ending is None:
                await pool.publish([(control, Replay(id=asker.id, attempt=attempt, after=0).to_wire())])
                await asyncio.sleep(0.05)
        await asker.completed()


async def test_a_lane_that_is_taken_is_refused(redis_url: str) -> None:
    """A second endpoint under the same name is an error that names the first, and leaves it alone."""
    async with serving(redis_url, FakeProvider(endpoint="http://gpu1:8080")):
        settings, other = LaneSettings("lane1", "fake"), FakeProvider(endpoint="http://gpu2:8080")
        with pytest.raises(LaneConflict, match="http://gpu1:8080"):
            async with open_lane(settings, RedisSettings(redis_url), provider=other):
                pass


async def test_a_drain_waits_and_gives_back_the_rest(redis_url: str, pool: Pool, hub: Hub) -> None:
    """What runs may end; what cannot is given back, begun or not; what was not started too."""
    provider = FakeProvider(hold_after=1, slots=4)
    async with serving(redis_url, provider) as (lane, worker):
        begun = await ask(pool, hub)
        await give(pool, begun)
        await until(lambda: provider.holding == 1 and bool(begun.text))
        provider.hold_after = 0
        fresh = await ask(pool, hub)
        await give(pool, fresh)
        await until(lambda: provider.holding == 2)
        worker.allow_pick_jobs = False
        unstarted = await ask(pool, hub)
        await give(pool, unstarted)
        await drain(lane, [worker], 0.1)
        assert begun.ending is None
        assert await life.state_of(pool, begun.id) == "waiting"
        assert await life.state_of(pool, fresh.id) == "waiting"
        assert await life.state_of(pool, unstarted.id) == "waiting"
        assert provider.running == 0
        assert not (await pool.survey()).lanes[0].state.accepts_work
        await settled(pool)


async def test_a_drain_ends_when_the_last_answer_does(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A drain lets a running answer come to its end, and lasts no longer."""
    provider = FakeProvider(hold_after=1)
    async with serving(redis_url, provider) as (lane, worker):
        asker = await ask(pool, hub)
        await give(pool, asker)
        await until(lambda: provider.holding == 1)
        draining = asyncio.create_task(drain(lane, [worker], 600))
        async with asyncio.timeout(10):
            while (await pool.survey()).lanes[0].state.accepts_work:
                await asyncio.sleep(0.005)
        provider.go.set()
        await asker.completed()
        async with asyncio.timeout(10):
            await draining


async def test_a_failing_model_server_costs_an_attempt(redis_url: str, pool: Pool, hub: Hub) -> None:
    """A bug in a provider ends its request and leaves the slot free for the next."""
    provider = FakeProvider(error=ZeroDivisionError())
    async with serving(redis_url, provider):
        asker = await ask(pool, hub)
        await give(pool, asker)
        assert isinstance(await asker.ended(), Failed)
        provider.error = None
        await all_slots_work(pool, hub, provider)
        await settled(pool)


async def test_an_abandoned_worker_starts_nothing_more(redis_url: str, pool: Pool, hub: Hub) -> None:
    """After its jobs are cancelled no bell has it take another one, which nobody would wait for."""
    async with serving(redis_url, FakeProvider()) as (_, worker):
        await worker.abandon()
        worker.on_doorbell(f"{pool.keys.tag}{new_id()}:1".encode())
        assert worker.tasks == {}


async def test_an_outage_is_one_line_for_all_queues_of_a_lane(
    redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queues of all kinds of work fail alike."""

    async def away(*_: object, **__: object) -> dict[str, bool]:
        raise PoolUnavailable("away")

    async with serving(redis_url, FakeProvider()) as (lane, worker):
        others = [LaneWorker(lane, run_request, "embed"), LaneWorker(lane, run_request, "command")]
        with caplog.at_level(logging.WARNING, "tokenlane.worker.lane.arq_worker"):
            monkeypatch.setattr(lane.pool.arq_queues, "jobs", away)
            worker._more_queued = True
            worker.wake()
            await asyncio.gather(*(each._poll_iteration() for each in others))
    assert [record.levelname for record in caplog.records if "away" in record.getMessage()] == ["WARNING"]
