"""What operators are shown of a pool: read from a real one, in every state there is."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from tests.integration import life
from tests.integration.life import LANE, PREFIX, ROLE, WORKER, raw
from tests.lanes import chats

from tokenlane.routing.contract.worker_report import AttemptsReport, WorkerReport
from tokenlane.routing.decide.lanes.offer import Announcement, ServerFailure
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.pool_health import find_problems
from tokenlane.routing.watch.snapshot import Failures, LaneStatus, QueueStatus, RoleStatus, Slots


async def lane(pool: Pool) -> LaneStatus:
    """The pool's only lane."""
    (found,) = (await take_snapshot(pool)).lanes
    return found


async def role(pool: Pool) -> RoleStatus:
    """The pool's only role."""
    (found,) = (await take_snapshot(pool)).roles
    return found


async def at_work_beside_a_newer_version(pool: Pool) -> None:
    """Two requests that wait and two that run, of each one a newer agent's."""
    server, newest = raw(pool), f"{ROLE}:paint:normal:64::"
    await life.beat(pool, WORKER, Announcement(LANE.lane, LANE.provider, LANE.endpoint, LANE.models, offer=chats(10)))
    await life.bring(pool, "running")
    newer = await life.bring(pool, "running")
    await server.hset(f"{PREFIX}request:{newer.id}", "queue", f"{ROLE}:chat:urgent:64::")
    await life.submit(pool)
    waiting = await life.submit(pool)
    await server.zrem(f"{PREFIX}queue:{ROLE}:chat:normal:64:::agent:agent1", waiting)
    await server.sadd(f"{PREFIX}queues", newest)
    await server.zadd(f"{PREFIX}queue:{newest}:agents", {"agent1": 1})
    await server.zadd(f"{PREFIX}queue:{newest}:agent:agent1", {waiting: 1})
    await server.hset(f"{PREFIX}lane:lane1:state", "offer", '{"limits": ["paint"]}')
    counter = max(await server.keys(f"{PREFIX}rates:*"))  # two if the ten seconds of one end meanwhile
    await server.hset(counter, mapping={f"{ROLE}:urgent:accepted": 1, f"{ROLE}:normal:paused": 1})
    await server.hset(f"{PREFIX}policy", mapping={"revision": 7, "document": '{"fallback": "dreams"}'})


async def test_an_empty_pool(pool: Pool) -> None:
    """Of a pool nobody has used there is nothing to see, and looking at it makes no key."""
    seen = await take_snapshot(pool)
    assert (seen.pool, seen.revision, seen.policy) == ("main", 0, Policy())
    assert (seen.roles, seen.queues, seen.lanes, seen.routers, seen.lagging) == ((), (), (), (), ())
    assert (seen.clients.known, seen.delayed, seen.swept_ms, seen.key_id) == (0, 0, None, None)
    assert await life.dump(raw(pool)) == {}


async def test_requests_in_every_state(pool: Pool) -> None:
    """What waits, what a lane was given and what runs are counted where they are, each once."""
    wide = Announcement(LANE.lane, LANE.provider, LANE.endpoint, LANE.models, offer=chats(10))
    await life.beat(pool, WORKER, wide)
    for state in ("waiting", "dispatched", "dispatched", "running", "flagged", "delayed", "completed", "failed"):
        await life.bring(pool, state)
    await life.submit(pool, life.envelope(agent="agent2"))
    await life.submit(pool, life.envelope(priority="high", model="m2"))
    seen = await take_snapshot(pool)
    assert [(it.role, it.priority, it.waiting, it.running) for it in seen.roles] == [
        (ROLE, "high", 1, 0),
        (ROLE, "normal", 2, 4),
    ]
    assert [(it.priority, it.needs.model, it.waiting) for it in seen.queues] == [("high", "m2", 1), ("normal", None, 2)]
    (only,) = seen.lanes
    assert (only.state, only.chats, only.models) == ("up", Slots(10, running=2, queued=2), LANE.models)
    assert [(worker.name, worker.state, worker.running) for worker in only.workers] == [(WORKER, "up", 2)]
    assert (seen.delayed, seen.clients.known, seen.clients.silent) == (1, 1, 0)
    assert [view.credit_for("chat") for view in seen.views] == [6]


async def test_the_oldest_waits_longest(pool: Pool) -> None:
    """A queue's age is that of the request of any agent that was submitted first; a role's is its oldest queue's."""
    first = await life.submit(pool, life.envelope(agent="zoe"))
    await life.submit(pool, life.envelope(agent="adam"))
    await life.submit(pool, life.envelope(agent="zoe", model="m1"))
    created = int(await raw(pool).hget(f"{PREFIX}request:{first}", "created"))
    await raw(pool).hset(f"{PREFIX}request:{first}", "created", created - 60_000)
    ages = {queue.needs.model: queue.oldest_ms for queue in (await take_snapshot(pool)).queues}
    assert ages[None] >= 60_000 > ages["m1"]
    assert (await role(pool)).oldest_ms is not None
    assert ((await role(pool)).oldest_ms or 0) >= 60_000


async def test_rates_count_each_request_once(pool: Pool) -> None:
    """Acceptances and ends are counted by priority, however often a script is sent, and counters go by themselves."""
    for ending in ("completed", "completed", "failed", "cancelled", "expired"):
        asked = await life.bring(pool, ending)
        await life.submit(pool, life.envelope(asked.id))
        await life.finish(pool, asked, "completed")
    await life.submit(pool, life.envelope(role="coder", priority="low"))
    coder, planner = (await take_snapshot(pool)).roles
    assert (coder.role, coder.priority, coder.rates.completed) == ("coder", "low", 0)
    rates = planner.rates
    assert min(rates.failed, rates.cancelled, rates.expired) > 0
    assert rates.completed == pytest.approx(2 * rates.failed, abs=0.002)
    assert rates.accepted == pytest.approx(5 * rates.failed, abs=0.003)
    assert 1 / 70 - 0.001 <= rates.failed <= 1 / 60 + 0.001
    counters = await raw(pool).keys(f"{PREFIX}rates:*")
    assert Counter([0 < await raw(pool).pttl(key) <= 80_000 for key in counters]) == {True: len(counters)}


async def test_failures_are_counted_by_code_and_lane(pool: Pool) -> None:
    """Each role and priority has its failures of the last minute; a request that no lane could run has no lane."""
    for state in ("running", "running", "waiting"):
        asked = await life.bring(pool, state)
        if state == "waiting":
            await pool.requests.fail(asked.id, asked.attempt, life.REFUSAL)
        else:
            await pool.requests.finish(asked.id, asked.attempt, asked.worker, "failed", 0, "timeout", b"{}")
    await raw(pool).xadd(f"{PREFIX}failed", {"id": "old", "role": ROLE, "lane": "lane1", "code": "timeout"})
    assert (await role(pool)).failures == (Failures("timeout", "lane1", 2), Failures("model_not_found", "", 1))


async def test_work_without_a_route_counts_for_no_role(pool: Pool) -> None:
    """A refused model command is the failure of one operator's command, and of no role."""
    command = life.envelope(role="models").model_copy(update={"kind": "command"})
    await life.open_lane(pool)
    for waiting in (await life.submit(pool, command), await life.submit(pool, life.envelope(role="models"))):
        assert await pool.requests.fail(waiting, 0, life.REFUSAL)
    (models,) = (await take_snapshot(pool)).roles
    assert models.rates.failed == models.rates.accepted <= 1 / 60 + 0.001
    assert models.failures == (Failures("model_not_found", "", 1),)


async def test_what_happened_a_minute_ago_is_no_rate(pool: Pool) -> None:
    """A counter older than the window is not read any more."""
    await life.submit(pool)
    (counter,) = await raw(pool).keys(f"{PREFIX}rates:*")
    bucket = int(counter.rpartition(b":")[2])
    await raw(pool).rename(counter, f"{PREFIX}rates:{bucket - 8}")
    assert (await role(pool)).rates.accepted == 0


async def test_a_lane_through_its_life(pool: Pool) -> None:
    """A lane is open while a worker accepts work, then draining or closed, and at last left or gone."""
    await life.beat(pool)
    await raw(pool).delete(f"{PREFIX}lane:lane1:workers")
    assert (await lane(pool)).state == "gone"  # nobody knows yet whose worker it is
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    assert (await lane(pool)).state == "down"
    await raw(pool).delete(f"{PREFIX}worker:{WORKER}")
    await life.beat(pool)
    assert (await lane(pool)).state == "up"
    await raw(pool).zadd(f"{PREFIX}workers", {WORKER: 1})
    await raw(pool).zadd(f"{PREFIX}lane:lane1:workers", {WORKER: 1})
    assert ((await lane(pool)).state, [it.name for it in (await lane(pool)).workers]) == ("gone", [])

    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    assert [worker.state for worker in (await lane(pool)).workers] == ["silent"]
    await pool.beats.renew(WORKER, LANE, [], accepts_new_work=False)
    assert ((await lane(pool)).state, (await lane(pool)).workers[0].state) == ("draining", "draining")
    await raw(pool).zadd(f"{PREFIX}workers", {WORKER: 1})
    assert ((await lane(pool)).state, (await lane(pool)).workers[0].state) == ("left", "left")
    await life.beat(pool)
    assert (await lane(pool)).state == "up"


@pytest.mark.parametrize("away", [0, 1])
async def test_a_lane_of_which_one_model_server_is_away(pool: Pool, away: int) -> None:
    """It is degraded, and says why, whichever of its workers that is."""
    for number, worker in enumerate(("worker0", "worker1")):
        await pool.beats.register(worker, LANE.lane, life.FACTS)
        condition = ServerCondition(LaneState.DOWN, "it is off") if number == away else UP
        await pool.beats.renew(worker, LANE, [], accepts_new_work=True, condition=condition)
    found = await lane(pool)
    assert (found.state, found.why) == ("degraded", "it is off")
    assert [problem.code for problem in find_problems(await take_snapshot(pool), 60)] == ["no_router", "lane_degraded"]


async def test_what_a_worker_says_of_itself(pool: Pool) -> None:
    """A worker's facts are asked for by the answer to its beat, shown once they are there, and last as it beats."""
    assert not (await pool.beats.renew(WORKER, LANE, [], accepts_new_work=True)).registered
    unknown = (await lane(pool)).workers[0]
    assert (unknown.host, unknown.versions, unknown.revision) == (None, {}, None)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    assert (await pool.beats.renew(WORKER, LANE, [], accepts_new_work=True)).registered
    known = (await lane(pool)).workers[0]
    assert (known.host, known.versions, known.revision) == (life.FACTS.host, life.FACTS.versions, 0)
    assert 20_000 < await raw(pool).pttl(f"{PREFIX}worker:{WORKER}") <= 30_000


async def test_what_a_worker_has_counted(pool: Pool) -> None:
    """Its report comes through as it is, fields that this version does not know left out; an older worker has none."""
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    report = WorkerReport(internal_errors=3, attempts=AttemptsReport(ended={"chat:completed": 2}, prompt_tokens=7))
    await pool.beats.renew(WORKER, LANE, [], accepts_new_work=True, report=report)
    assert (await lane(pool)).workers[0].report == report
    newer = {**report.model_dump(), "to_come": 1}
    await raw(pool).hset(f"{PREFIX}worker:{WORKER}", "report", json.dumps(newer))
    assert (await lane(pool)).workers[0].report == report
    await raw(pool).hdel(f"{PREFIX}worker:{WORKER}", "report")
    assert (await lane(pool)).workers[0].report == WorkerReport()


async def test_a_wiped_server_is_told_the_facts_anew(pool: Pool) -> None:
    """After a wipe the next beat finds the worker's facts missing."""
    await life.beat(pool)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    await raw(pool).flushall()
    assert not (await pool.beats.renew(WORKER, LANE, [], accepts_new_work=True)).registered


async def test_the_last_error_of_a_lane(pool: Pool) -> None:
    """The newest error of the lane's workers, by code and age; a beat without one leaves it."""
    now = asyncio.get_running_loop().time()
    for worker, fault in (
        ("w1", ServerFailure("timeout", now - 100)),
        ("w2", ServerFailure("provider_down", now - 50)),
    ):
        await pool.beats.register(worker, LANE.lane, life.FACTS)
        await pool.beats.renew(worker, LANE, [], accepts_new_work=True, fault=fault)
        await pool.beats.renew(worker, LANE, [], accepts_new_work=True)
    found = await lane(pool)
    assert found.error is not None
    assert found.error.code == "provider_down"
    assert 50_000 <= found.error.age_ms < 100_000
    assert [worker.error.code for worker in found.workers if worker.error] == ["timeout", "provider_down"]


async def test_who_lags_behind_the_policy(pool: Pool) -> None:
    """Workers and routers that have not seen the newest revision are named; routers that decide nothing are not."""
    await pool.beats.register("w1", LANE.lane, life.FACTS)
    await pool.beats.register("w2", LANE.lane, life.FACTS)
    await pool.policies.write(Policy(lease_ms=9_000))
    for worker in ("w1", "w2"):
        await life.beat(pool, worker)
    await pool.beats.sweep("h/old", revision=1)
    await pool.beats.sweep("h/new", revision=2)
    await pool.beats.sweep("h/reserve", rank_only=True)
    assert (await take_snapshot(pool)).lagging == ("h/new",)
    await pool.policies.write(Policy(lease_ms=9_001))
    await life.beat(pool, "w2")
    seen = await take_snapshot(pool)
    assert seen.lagging == ("h/old", "w1")
    assert [(router.name, router.revision) for router in seen.routers] == [
        ("h/new", 2), ("h/old", 1), ("h/reserve", None)]  # fmt: skip
    assert (seen.revision, seen.policy.lease_ms) == (2, 9_001)


async def test_a_router_that_is_silent_is_not_shown(pool: Pool) -> None:
    """A router is shown while it sweeps."""
    await pool.beats.sweep("h/1")
    await raw(pool).zadd(f"{PREFIX}routers", {"h/1": 1})
    assert (await take_snapshot(pool)).routers == ()


async def test_leftovers_do_not_count(pool: Pool) -> None:
    """A job of an attempt that is over, a lane without state and another's job leave the figures as they are."""
    asked = await life.running(pool)
    await raw(pool).zadd(f"{PREFIX}lane:lane1", {f"{{main}}{asked.id}:1": 1, "{main}" + "0" * 32 + ":7": 2, "odd": 3})
    await raw(pool).zadd(f"{PREFIX}lanes", {"ghost": 1})
    assert (await lane(pool)).chats == Slots(LANE.offer.limit_of("chat"), running=1, queued=0)


async def test_queues_are_told_apart(pool: Pool) -> None:
    """What is asked for is part of a queue, as it was asked."""
    await life.submit(pool, life.envelope(model="org/model:8b"))
    assert [(queue.role, queue.needs.model) for queue in (await take_snapshot(pool)).queues] == [(ROLE, "org/model:8b")]
    assert isinstance((await take_snapshot(pool)).queues[0], QueueStatus)


async def test_what_a_newer_version_wrote(pool: Pool) -> None:
    """A kind of work, a priority, an offer, an end and a policy that this version does not know: they are named, and
    all the rest is shown."""
    await at_work_beside_a_newer_version(pool)
    seen = await take_snapshot(pool)
    assert [(it.role, it.priority, it.waiting, it.running) for it in seen.roles] == [(ROLE, "normal", 1, 1)]
    assert [queue.waiting for queue in seen.queues] == [1]
    (only,) = seen.lanes
    assert (only.state, only.chats.running, only.offer) == ("up", 2, chats(10))
    assert (seen.revision, seen.policy) == (7, Policy(revision=7))
    for word, found in zip(("policy", ":paint:", "lane1", "urgent", "paused"), seen.unknown, strict=True):
        assert word in found
