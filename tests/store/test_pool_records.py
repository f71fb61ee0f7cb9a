"""What operators are shown of single requests: their states, and their places in the queues."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.integration import life
from tests.integration.life import AGENT, LANE, PREFIX, ROLE, WORKER, raw

from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_records import RequestRecord


async def record(pool: Pool, request_id: str) -> RequestRecord:
    """The record of one request."""
    (found,) = await pool.records.read([request_id])
    return found


async def positions(pool: Pool, *ids: str) -> list[int]:
    """The positions of waiting requests in their queues."""
    places = [each.place for each in await pool.records.read(ids)]
    return [place.position for place in places if place is not None]


@pytest.mark.parametrize("state", life.LIVE)
async def test_a_live_request_is_listed(pool: Pool, state: str) -> None:
    """It has its state and its needs, and its lane only while a lane has it."""
    asked = await life.bring(pool, state)
    (found,) = await pool.records.live()
    assert (found.id, found.state, found.role, found.agent) == (asked.id, state, ROLE, AGENT)
    assert found.queue is not None
    assert found.lane == (LANE.lane if state in ("dispatched", "running") else "")
    assert found.worker == (WORKER if state == "running" else "")
    assert (found.due_ms > 0) == (state == "delayed")
    assert (found.place is not None) == (state == "waiting")
    assert found.ended_ms is None
    assert 0 < found.left_ms <= 600_000


@pytest.mark.parametrize("state", life.ENDED)
async def test_an_ended_request_can_still_be_read(pool: Pool, state: str) -> None:
    """It is no longer listed."""
    asked = await life.bring(pool, state)
    assert await pool.records.live() == ()
    found = await record(pool, asked.id)
    assert found.state == state
    assert found.ended_ms is not None
    assert found.place is None


async def test_a_running_request_that_must_end(pool: Pool) -> None:
    """It says how; one whose deadline has passed is still listed."""
    cancelled = await life.bring(pool, "flagged")
    expired = await life.running(pool)
    await life.pass_deadline(pool, expired.id)
    await life.sweep(pool)
    assert {each.id: each.stops for each in await pool.records.live()} == {
        cancelled.id: "cancelled",
        expired.id: "expired",
    }


async def test_unknown_requests_are_left_out(pool: Pool) -> None:
    """Looking at them makes no key."""
    assert await pool.records.read(["0" * 32]) == ()
    assert await pool.records.live() == ()
    assert await life.dump(raw(pool)) == {}


async def test_agents_take_turns(pool: Pool) -> None:
    """The position counts the turns of other agents: a later request of a second agent comes before the second request
    of the first."""
    first = [await life.submit(pool, life.envelope(agent="a")) for _ in range(3)]
    second = [await life.submit(pool, life.envelope(agent="b")) for _ in range(2)]
    assert await positions(pool, *first) == [1, 3, 5]
    assert await positions(pool, *second) == [2, 4]
    await life.open_lane(pool)
    await life.dispatch(pool, first[0])
    assert await positions(pool, second[0], first[1], second[1], first[2]) == [1, 2, 3, 4]


async def test_positions_are_the_order_in_which_a_router_dispatches(pool: Pool) -> None:
    """With many agents and requests, the positions of the heads are their places in a survey."""
    for number in range(24):
        await life.submit(pool, life.envelope(agent=f"agent{number * number % 7}"))
        if number in (5, 11):
            await life.open_lane(pool)
            await life.dispatch(pool, (await pool.survey()).heads[0].id)
    heads = (await pool.survey()).heads
    assert await positions(pool, *(head.id for head in heads)) == [head.place + 1 for head in heads]
    live = [each for each in await pool.records.live() if each.place is not None]
    assert sorted(each.place.position for each in live if each.place) == list(range(1, 23))
    assert {each.place.waiting for each in live if each.place} == {22}


async def test_positions_among_very_many_agents(pool: Pool) -> None:
    """Agents beyond the first 64 count, too."""
    ids = [await life.submit(pool, life.envelope(agent=f"agent{number:03}")) for number in range(100)]
    assert await positions(pool, *ids) == list(range(1, 101))
    second = await life.submit(pool, life.envelope(agent="agent000"))
    assert await positions(pool, second) == [101]
    last = (await record(pool, ids[-1])).place
    assert last is not None
    assert last.waiting == 101


async def test_the_pace_is_measured(pool: Pool) -> None:
    """Without requests that ended there is no estimate."""
    waiting = await life.submit(pool)
    assert (await record(pool, waiting)).place == QueuePlace(1, 1)
    await raw(pool).hset(f"{PREFIX}drain:{ROLE}", mapping={"at": 1, "mean": 20_000})
    place = (await record(pool, waiting)).place
    assert place is not None
    assert place.estimate_ms == 20_000


async def test_the_pace_of_a_queue(pool: Pool) -> None:
    """It is measured over the requests that had to wait: those that found a free slot at once say nothing about it."""
    ids = [await life.submit(pool) for _ in range(6)]
    await life.open_lane(pool)
    await raw(pool).hset(f"{PREFIX}drain:{ROLE}", "mean", 20_000)
    await life.dispatch(pool, ids[0])
    assert (await pace(pool, ids[5])) == 20_000
    for request_id in ids[1:]:
        await raw(pool).hincrby(f"{PREFIX}request:{request_id}", "created", -60_000)
    clock = f"{PREFIX}queue:{ROLE}:chat:normal:64:::clock"
    await raw(pool).hincrby(clock, "began", -8_000)
    await life.dispatch(pool, ids[1])
    assert 8_000 <= await pace(pool, ids[5]) < 16_000
    await raw(pool).hset(clock, "left", 4)
    assert 2_000 <= await pace(pool, ids[5]) < 4_000
    (status,) = (await pool.beats.check(life.CLIENT, [ids[5]])).statuses
    assert status.waiting is not None
    assert status.waiting.place is not None
    assert (status.waiting.place.position, status.waiting.place.waiting) == (4, 4)


async def pace(pool: Pool, request_id: str) -> int:
    """The pace of the request's queue."""
    place = (await record(pool, request_id)).place
    assert place is not None
    return place.pace_ms or 0


async def test_a_client_learns_the_place(pool: Pool) -> None:
    """The reply to its beat has the place of requests that wait."""
    waiting, running = await life.submit(pool), await life.running(pool)
    first, second = (await pool.beats.check(life.CLIENT, [waiting, running.id])).statuses
    assert first.waiting is not None
    assert (first.waiting.place, second.waiting) == (QueuePlace(1, 1), None)


async def test_only_a_client_that_waits_gets_the_lanes(pool: Pool) -> None:
    """They explain why; other clients need no more than to know whether there is a lane."""
    running = await life.running(pool)
    await pool.pause_role(ROLE)
    waiting = await life.submit(pool)
    told, silent = [await pool.beats.check(life.CLIENT, ids) for ids in ([running.id, waiting], [running.id])]
    assert told.lanes is not None
    assert ([lane.name for lane in told.lanes], told.paused) == ([LANE.lane], (ROLE,))
    assert (silent.lanes, silent.paused, silent.known_lanes) == (None, (), 1)


async def test_a_client_learns_what_operators_read(pool: Pool) -> None:
    """Both get the same description of a request that waits."""
    states = ("waiting", "delayed", "dispatched", "running")
    ids = [(await life.bring(pool, state)).id for state in states]
    statuses = (await pool.beats.check(life.CLIENT, ids)).statuses
    records = {each.id: each for each in await pool.records.read(ids)}
    for request_id, status in zip(ids, statuses, strict=True):
        known, told = records[request_id].waiting, status.waiting
        assert (known is None) == (told is None) == (status.state == "running")
        if known is not None and told is not None:
            assert replace(told, due_ms=0) == replace(known, due_ms=0)
            assert (told.due_ms > 0) == (known.due_ms > 0) == (status.state == "delayed")


async def test_fields_of_another_version(pool: Pool) -> None:
    """Fields that this version cannot read are empty."""
    asked = await life.bring(pool, "delayed")
    await raw(pool).hset(f"{PREFIX}request:{asked.id}", mapping={"queue": "?", "starts": "many", "created": "-"})
    found = await record(pool, asked.id)
    assert (found.queue, found.starts) == (None, 0)


async def test_the_history_of_attempts(pool: Pool) -> None:
    """Each attempt has its lane, its model, its times and why it ended; the newest comes last."""
    asked = await life.running(pool)
    await pool.requests.requeue(asked.id, asked.attempt, WORKER, cause="provider_down")
    lapsed = await life.dispatched(pool, asked.id)
    await life.pass_lease(pool, asked.id)
    await life.sweep(pool)
    await life.beat(pool)
    died = await life.running(pool, asked.id)
    await life.pass_lease(pool, asked.id)
    await life.sweep(pool)
    await life.beat(pool)
    waiting = await record(pool, asked.id)
    assert [each.ended_by for each in waiting.attempts] == ["provider_down", "not_started", "worker_lost"]
    newest = await life.running(pool, asked.id)
    found = await record(pool, asked.id)
    assert [each.attempt for each in found.attempts] == [asked.attempt, lapsed.attempt, died.attempt, newest.attempt]
    assert {(each.lane, each.model) for each in found.attempts} == {(LANE.lane, "m1")}
    assert [each.started_ms is None for each in found.attempts] == [False, True, False, False]
    assert [each.ended_ms is None for each in found.attempts] == [False, False, False, True]
    await life.finish(pool, newest)
    assert (await record(pool, asked.id)).attempts[-1].ended_by == "completed"
    await life.audit(raw(pool))


@pytest.mark.parametrize("state", [*life.LIVE, *life.ENDED])
async def test_the_newest_attempt(pool: Pool, state: str) -> None:
    """It is in the history from its dispatch to the end of the request, once."""
    asked = await life.bring(pool, state)
    attempts = (await record(pool, asked.id)).attempts
    assert len(attempts) == (state != "waiting")
    has_ended = state == "delayed" or state in life.ENDED
    assert all((each.ended_ms is not None) == has_ended for each in attempts)


async def test_an_attempt_of_a_cancelled_request_that_is_given_back(pool: Pool) -> None:
    """Its request ends, and it is in the history once."""
    asked = await life.bring(pool, "flagged")
    assert await pool.requests.requeue(asked.id, asked.attempt, WORKER, cause="draining") == "cancelled"
    (attempt,) = (await record(pool, asked.id)).attempts
    assert attempt.ended_by == "draining"


async def test_the_history_keeps_the_newest_attempts(pool: Pool) -> None:
    """At most 16, besides the one that has not ended."""
    request_id = await life.submit(pool)
    numbers = []
    for _ in range(20):
        asked = await life.running(pool, request_id)
        numbers.append(asked.attempt)
        await pool.requests.requeue(asked.id, asked.attempt, WORKER, cause="draining", counts=False)
    assert [each.attempt for each in (await record(pool, request_id)).attempts] == numbers[-16:]


async def test_a_history_of_another_version(pool: Pool) -> None:
    """Attempts that this version cannot read are left out."""
    asked = await life.bring(pool, "delayed")
    await raw(pool).hset(
        f"{PREFIX}request:{asked.id}", "history", '?\n["1"]\n["1","l","m","2","3","draining","new"]\n[1]'
    )
    assert [each.lane for each in (await record(pool, asked.id)).attempts] == ["l"]
