"""What sweeping does: leases, delays, deadlines, vanished clients, leftovers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.integration import life
from tests.integration.life import CLIENT, LANE, PREFIX, ROUTER, WORKER, Asked, audit, raw
from tests.lanes import chats

from tokenlane.routing.carry_out_recovery import recover
from tokenlane.routing.decide.lanes.offer import Offer
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool


async def test_a_lapsed_start_lease_takes_the_lane_out(pool: Pool) -> None:
    """What a lane does not start waits again, without a crash; the lane gets nothing until its next beat."""
    asked = await life.dispatched(pool)
    await life.pass_lease(pool, asked.id)
    assert len((await life.sweep(pool)).lapsed) == 1
    assert await audit(raw(pool)) == {asked.id: "waiting"}
    assert await raw(pool).hget(f"{PREFIX}request:{asked.id}", "crashes") == b"0"
    assert not (await pool.survey()).lanes[0].state.accepts_work
    assert await life.dispatch(pool, asked.id) is None
    await life.beat(pool)
    assert await life.dispatch(pool, asked.id) is not None


async def test_a_lapsed_running_lease_is_a_crash(pool: Pool) -> None:
    """What a dead worker ran waits again, the crash is counted, and only that worker is out of its lane."""
    asked = await life.running(pool)
    await life.beat(pool, "worker2")
    await life.pass_lease(pool, asked.id)
    assert len((await life.sweep(pool)).lapsed) == 1
    assert await audit(raw(pool)) == {asked.id: "waiting"}
    assert await raw(pool).hget(f"{PREFIX}request:{asked.id}", "crashes") == b"1"
    assert await raw(pool).zrange(f"{PREFIX}lane:lane1:workers", 0, -1) == [b"worker2"]


async def test_the_requests_of_a_buried_worker_wait_again(pool: Pool) -> None:
    """Before its lease lapses, and while no other may; counted as a crash. What others run goes on."""
    others = await life.running(pool)
    await life.beat(pool, "worker2")
    asked = await life.dispatched(pool)
    assert await pool.requests.start(asked.id, asked.attempt, "worker2") is not None
    await pool.beats.bury("worker2")
    assert await raw(pool).zrange(f"{PREFIX}lane:lane1:workers", 0, -1) == [WORKER.encode()]
    # A gap in sweeping, after which nothing lapses for a lease.
    await raw(pool).delete(f"{PREFIX}swept")
    swept = await pool.beats.sweep(ROUTER)
    assert [lapsed.id for lapsed in swept.lapsed] == [asked.id]
    await recover(pool, swept.lapsed)
    assert await audit(raw(pool)) == {others.id: "running", asked.id: "waiting"}
    assert await raw(pool).hget(f"{PREFIX}request:{asked.id}", "crashes") == b"1"


async def test_too_many_crashes_fail_the_request(pool: Pool) -> None:
    """A request that takes down as many workers as the policy allows is given up, and its agent told."""
    await pool.policies.write(Policy(max_crashes=2))
    asked = await life.running(pool)
    await life.pass_lease(pool, asked.id)
    await life.sweep(pool)
    asked = await life.running(pool, asked.id)
    await life.pass_lease(pool, asked.id)
    async with life.listen(pool) as ear:
        await life.sweep(pool)
        (told,) = [content for channel, content in await ear.heard() if channel == f"deltas:{asked.id}"]
    assert (told["type"], told["attempt"], told["error"]["code"]) == ("failed", asked.attempt, "interrupted")
    assert await audit(raw(pool)) == {asked.id: "failed"}


async def _run_all(pool: Pool, ids: Sequence[str]) -> list[Asked]:
    """Start all of these that wait and the lane takes; those that run."""
    begun = []
    for request_id in ids:
        if await life.state_of(pool, request_id) == "waiting":
            attempt = await life.dispatch(pool, request_id)
            if attempt is not None:
                assert await pool.requests.start(request_id, attempt, WORKER) is not None
                begun.append(Asked(request_id, attempt))
    return begun


@pytest.mark.many_commands
async def test_innocents_outlive_a_poisonous_request(pool: Pool) -> None:
    """A request that kills every worker takes none of those down that run beside it: before its last try each runs
    alone, and the one that is given up is to blame."""
    lane = replace(LANE, offer=chats(20))
    ids = [await life.submit(pool, life.envelope(agent=f"agent{number % 3}")) for number in range(13)]
    poison = ids[6]
    together = []
    for _ in range(30):
        await life.beat(pool, WORKER, lane)
        begun = await _run_all(pool, ids)
        together.append(len(begun))
        dies = poison in {asked.id for asked in begun}
        for asked in begun:
            await (life.pass_lease(pool, asked.id) if dies else life.finish(pool, asked))
        await life.sweep(pool)
        await audit(raw(pool))
    assert together == [13, 13, *[1] * 13, *[0] * 15]
    states = await audit(raw(pool))
    assert [request_id for request_id, state in states.items() if state != "completed"] == [poison]
    assert states[poison] == "failed"
    assert not await raw(pool).exists(f"{PREFIX}lane:{LANE.lane}:alone")


async def test_who_is_given_up_is_told_whether_others_may_be_to_blame(pool: Pool) -> None:
    """Where the policy allows no try alone, what is given up may be innocent, and its error has other words."""
    words = []
    for crashes in (1, 2):
        await pool.policies.write(Policy(max_crashes=crashes))
        request_id = await life.submit(pool)
        async with life.listen(pool) as ear:
            for _ in range(crashes):
                await life.beat(pool)
                await life.running(pool, request_id)
                await life.pass_lease(pool, request_id)
                await life.sweep(pool)
            (told,) = [content for channel, content in await ear.heard() if channel == f"deltas:{request_id}"]
        assert told["error"]["code"] == "interrupted"
        words.append(told["error"]["message"].replace(str(crashes), ""))
    assert len(set(words)) == 2


async def test_a_lane_is_kept_free_for_a_suspect(pool: Pool) -> None:
    """While one waits for a lane that is busy, nothing else is given to it, of no kind; nor while it runs; then all
    goes on."""
    await pool.policies.write(Policy(max_crashes=2))
    suspect, busy = await life.running(pool), await life.running(pool)
    await life.pass_lease(pool, suspect.id)
    await life.sweep(pool)
    await life.beat(pool)
    other = await life.submit(pool)
    assert await life.dispatch(pool, suspect.id) is None
    for _ in range(2):
        assert await life.dispatch(pool, other) is None
        assert await life.dispatch(pool, suspect.id) is None
    await life.finish(pool, busy)
    attempt = await life.dispatch(pool, suspect.id)
    assert attempt is not None
    assert await life.dispatch(pool, other) is None
    assert await pool.requests.start(suspect.id, attempt, WORKER) is not None
    assert await life.dispatch(pool, other) is None
    await life.finish(pool, Asked(suspect.id, attempt))
    assert await life.dispatch(pool, other) is not None
    await audit(raw(pool))


async def test_a_suspect_has_one_lane_emptied_for_it(pool: Pool) -> None:
    """However many it asks that are busy, the others take what waits."""
    await pool.policies.write(Policy(max_crashes=2))
    suspect = await life.running(pool)
    await life.pass_lease(pool, suspect.id)
    await life.sweep(pool)
    lanes = [replace(LANE, lane=f"lane{number}") for number in range(3)]
    for lane in lanes:
        await life.beat(pool, f"worker of {lane.lane}", lane)
        assert await life.dispatch(pool, await life.submit(pool), lane.lane) is not None
    for _ in range(2):
        assert [await life.dispatch(pool, suspect.id, lane.lane) for lane in lanes] == [None] * 3
    others = [await life.submit(pool) for _ in lanes]
    taken = [await life.dispatch(pool, other, lane.lane) for other, lane in zip(others, lanes, strict=True)]
    assert [attempt is not None for attempt in taken] == [False, True, True]


async def test_a_suspect_waits_for_no_command(pool: Pool) -> None:
    """A lane that pulls a model, which may take hours, is not closed to all because a suspect waits for it."""
    await pool.policies.write(Policy(max_crashes=2))
    lane = replace(LANE, offer=Offer(limits={"chat": 2, "command": 1}))
    suspect = await life.running(pool)
    await life.pass_lease(pool, suspect.id)
    await life.sweep(pool)
    await life.beat(pool, WORKER, lane)
    pull = await life.submit(pool, life.envelope().model_copy(update={"kind": "command"}))
    assert await life.dispatch(pool, pull) is not None
    assert await life.dispatch(pool, suspect.id) is not None


async def test_a_suspect_that_is_cancelled_keeps_no_lane(pool: Pool) -> None:
    """What waited for a lane of its own and ends leaves the lane to others at once."""
    await pool.policies.write(Policy(max_crashes=2))
    suspect, _ = await life.running(pool), await life.running(pool)
    await life.pass_lease(pool, suspect.id)
    await life.sweep(pool)
    await life.beat(pool)
    other = await life.submit(pool)
    assert await life.dispatch(pool, suspect.id) is None
    assert await life.dispatch(pool, other) is None
    await pool.requests.cancel(suspect.id)
    assert await life.dispatch(pool, other) is not None


@pytest.mark.parametrize("state", ["dispatched", "running"])
async def test_a_lapsed_lease_past_the_deadline_expires(pool: Pool, state: str) -> None:
    """What is too late when its lease lapses does not wait again."""
    asked = await life.bring(pool, state)
    await life.pass_lease(pool, asked.id)
    await life.pass_deadline(pool, asked.id)
    await life.sweep(pool)
    assert await audit(raw(pool)) == {asked.id: "expired"}


async def test_a_lapsed_lease_of_a_flagged_one_cancels(pool: Pool) -> None:
    """A cancelled request whose worker died is cancelled, however often workers died before."""
    await pool.policies.write(Policy(max_crashes=1))
    asked = await life.bring(pool, "flagged")
    await life.pass_lease(pool, asked.id)
    await life.sweep(pool)
    assert await audit(raw(pool)) == {asked.id: "cancelled"}


async def test_a_due_delay_waits_again(pool: Pool) -> None:
    """When its delay is over a request waits, and routers are rung."""
    asked = await life.bring(pool, "delayed")
    await life.sweep(pool)
    assert await audit(raw(pool)) == {asked.id: "delayed"}
    await life.pass_delay(pool, asked.id)
    async with life.listen(pool) as ear:
        await life.sweep(pool)
        assert [channel for channel, _ in await ear.heard()] == ["doorbell"]
    assert await audit(raw(pool)) == {asked.id: "waiting"}


@pytest.mark.parametrize("state", ["waiting", "delayed", "dispatched"])
async def test_a_passed_deadline_expires(pool: Pool, state: str) -> None:
    """A request that does not run expires when its deadline passes."""
    asked = await life.bring(pool, state)
    await life.pass_deadline(pool, asked.id)
    async with life.listen(pool) as ear:
        await life.sweep(pool)
        assert await ear.told(asked.id) == ["expired"]
    assert await audit(raw(pool)) == {asked.id: "expired"}


async def test_a_passed_deadline_flags_a_running_request(pool: Pool) -> None:
    """What runs past its deadline is flagged once, its worker told, and ended by it."""
    asked = await life.running(pool)
    await life.pass_deadline(pool, asked.id)
    async with life.listen(pool) as ear:
        await life.sweep(pool)
        await life.sweep(pool)
        ((channel, told),) = await ear.heard()
    assert (channel, told["reason"]) == (f"control:{WORKER}", "expired")
    assert await audit(raw(pool)) == {asked.id: "running"}
    assert await life.beat(pool, WORKER, LANE, life.hold(asked)) == ("expired",)
    assert await life.finish(pool, asked, "expired")
    assert await audit(raw(pool)) == {asked.id: "expired"}


async def test_the_requests_of_a_vanished_client_are_cancelled(pool: Pool) -> None:
    """In every state: cancelled at once, or flagged if it runs; other clients' requests stay."""
    gone = {state: (await life.bring(pool, state)).id for state in ("delayed", "running", "dispatched", "waiting")}
    await life.submit(pool, life.envelope(client="client2"))
    await life.vanish(pool)
    await life.sweep(pool)
    states = await audit(raw(pool))
    assert {state: states[gone[state]] for state in gone} == {
        "delayed": "cancelled",
        "running": "running",
        "dispatched": "cancelled",
        "waiting": "cancelled",
    }
    assert list(states.values()).count("waiting") == 1
    assert await raw(pool).hget(f"{PREFIX}request:{gone['running']}", "cancel") == b"cancelled"
    assert await raw(pool).zrange(f"{PREFIX}clients", 0, -1) == [b"client2"]


async def test_the_cause_of_a_cancelled_orphan_is_kept(pool: Pool) -> None:
    """The message and the state say that the client had vanished: at once, or once the worker has stopped. Of a request
    that a client cancelled they do not."""
    runs, waits = await life.running(pool), await life.submit(pool)
    await life.vanish(pool)
    async with life.listen(pool) as ear:
        await life.sweep(pool)
        assert await life.finish(pool, runs, "cancelled")
        heard = [message for channel, message in await ear.heard() if channel.startswith("deltas:")]
    assert [(message["type"], message["code"]) for message in heard] == [("cancelled", "orphaned")] * 2
    for request_id in (runs.id, waits):
        assert await raw(pool).hget(f"{PREFIX}request:{request_id}", "code") == b"orphaned"
    wanted = await life.submit(pool)
    await pool.requests.cancel(wanted, CLIENT)
    assert await raw(pool).hget(f"{PREFIX}request:{wanted}", "code") == b""


async def test_a_sweep_is_bounded(pool: Pool) -> None:
    """A sweep handles 100 of a kind and says that more remain, until all is done."""
    ids = [await life.submit(pool) for _ in range(150)]
    await life.vanish(pool)
    assert (await life.sweep(pool)).more
    assert Counter((await audit(raw(pool))).values()) == {"cancelled": 100, "waiting": 50}
    assert not (await life.sweep(pool)).more
    assert await audit(raw(pool)) == dict.fromkeys(ids, "cancelled")


async def test_what_runs_for_a_vanished_client_is_cancelled_last(pool: Pool) -> None:
    """However often it takes: while something of a gone client waits, nothing that runs for it makes room."""
    lane = replace(LANE, offer=chats(30))
    await life.beat(pool, WORKER, lane)
    for _ in range(30):
        await life.running(pool)
    for _ in range(150):
        await life.submit(pool)
    await life.vanish(pool)
    more, stopped = True, 0
    async with life.listen(pool) as ear:
        while more:
            more = (await life.sweep(pool)).more
            stopped += sum(channel.startswith("control:") for channel, _ in await ear.heard())
            assert not stopped or "waiting" not in (await audit(raw(pool))).values()
    assert stopped == 30
    assert list((await audit(raw(pool))).values()).count("cancelled") == 150


@pytest.mark.many_commands
async def test_running_ones_of_vanished_clients_are_in_nobodys_way(pool: Pool) -> None:
    """More vanished clients than a sweep handles, all with running requests that go on, do not delay the next one."""
    lane = replace(LANE, offer=chats(200))
    for number in range(120):
        request_id = await life.submit(pool, life.envelope(client=f"busy{number}"))
        await life.beat(pool, WORKER, lane)
        attempt = await life.dispatch(pool, request_id)
        assert attempt is not None
        assert await pool.requests.start(request_id, attempt, WORKER) is not None
        await life.vanish(pool, f"busy{number}")
    await life.submit(pool)
    await life.vanish(pool)
    assert [(await life.sweep(pool)).more for _ in range(2)] == [True, False]
    states = list((await audit(raw(pool))).values())
    assert (states.count("running"), states.count("cancelled")) == (120, 1)


@pytest.mark.parametrize("kind", ["chat", "embed", "command"])
async def test_jobs_of_dead_attempts_free_their_credit(pool: Pool, kind: str) -> None:
    """A job on a lane's queue whose attempt is over goes, with ARQ's keys; those that live stay."""
    asked = await life.running(pool)
    dead = [f"{{main}}{asked.id}:1", f"{{main}}{'f' * 32}:7", "not of ours"]
    queue = pool.keys.lane_queue("lane1", kind)
    await raw(pool).zadd(queue, dict.fromkeys(dead, 1))
    for job in dead:
        await raw(pool).set(f"{{main}}:arq:in-progress:{job}", b"1")
    await life.sweep(pool)
    assert await audit(raw(pool)) == {asked.id: "running"}


async def test_a_forgotten_lane_leaves_nothing(pool: Pool) -> None:
    """A lane that nobody has heard of for an hour is forgotten."""
    await life.beat(pool)
    await raw(pool).zadd(f"{PREFIX}lanes", {"lane1": 1})
    await raw(pool).zadd(f"{PREFIX}workers", {WORKER: 1})
    await life.sweep(pool)
    assert (await pool.survey()).lanes == ()
    left = set(await life.dump(raw(pool)))
    assert left == {f"{PREFIX}routers", f"{PREFIX}swept"}


@pytest.mark.parametrize("gap", ["never swept", "long ago", "a short lease ago"])
async def test_nothing_lapses_after_a_gap_in_sweeping(pool: Pool, gap: str) -> None:
    """After an outage no lease lapses and no client is gone for one full lease; deadlines and delays go on."""
    asked, delayed = await life.running(pool), await life.bring(pool, "delayed")
    if gap == "a short lease ago":
        await pool.policies.write(Policy(lease_ms=4_000))
        moment = (await pool.survey()).now_ms - 4_500
        await raw(pool).hset(f"{PREFIX}swept", mapping={"at": moment, "hold": 1})
    if gap == "long ago":
        await raw(pool).hset(f"{PREFIX}swept", mapping={"at": 1, "hold": 1})
    await life.pass_lease(pool, asked.id)
    await life.pass_delay(pool, delayed.id)
    await life.vanish(pool)
    swept = await pool.beats.sweep(ROUTER)
    assert not swept.lapsed
    assert await audit(raw(pool)) == {asked.id: "running", delayed.id: "waiting"}
    swept = await pool.beats.sweep(ROUTER)
    assert not swept.lapsed
    assert await audit(raw(pool)) == {asked.id: "running", delayed.id: "waiting"}
    hold = await raw(pool).hget(f"{PREFIX}swept", "hold")
    assert hold is not None
    assert 0 < int(hold) - (await pool.survey()).now_ms <= Policy().lease_ms
    swept = await life.sweep(pool)
    assert len(swept.lapsed) == 1
    assert await audit(raw(pool)) == {asked.id: "cancelled", delayed.id: "cancelled"}


async def test_ranks_go_to_different_hosts_first(pool: Pool) -> None:
    """The first router of each host ranks before any host's second; a silent one has no rank."""
    names = ["a/1", "a/2", "b/1", "b/2", "c/1"]
    for name in names:
        await pool.beats.sweep(name, rank_only=True)
    ranks = {name: (await pool.beats.sweep(name, rank_only=True)).rank for name in names}
    assert ranks == {"a/1": 0, "b/1": 1, "c/1": 2, "a/2": 3, "b/2": 4}
    await raw(pool).zadd(f"{PREFIX}routers", {"a/1": 1})
    assert (await pool.beats.sweep("b/1")).rank == 1
    assert (await pool.beats.sweep("a/2")).rank == 0
    await audit(raw(pool))


@pytest.mark.parametrize(("lease_ms", "silent_ms", "rests_ms"), [(10_000, 2000, 2000), (1000, 500, 250)])
async def test_a_rank_outlives_no_lease(pool: Pool, lease_ms: int, silent_ms: int, rests_ms: int) -> None:
    """If the two routers that sweep die, a third one notices it within a lease, and within four seconds at most."""
    await pool.policies.write(Policy(lease_ms=lease_ms))
    for name in ("a/1", "b/1"):
        await pool.beats.sweep(name)
    now = (await pool.survey()).now_ms
    await raw(pool).zadd(f"{PREFIX}routers", {"a/1": now - silent_ms - 1, "b/1": now - silent_ms + 400})
    swept = await pool.beats.sweep("c/1", rank_only=True)
    assert (swept.rank, swept.due_ms) == (1, rests_ms)


async def test_asking_for_a_rank_sweeps_nothing(pool: Pool) -> None:
    """A router that only asks for its rank changes nothing else."""
    asked = await life.dispatched(pool)
    await life.pass_lease(pool, asked.id)
    await life.pass_deadline(pool, asked.id)
    await pool.beats.sweep(ROUTER, rank_only=True)
    before = await life.snapshot(raw(pool))
    swept = await pool.beats.sweep(ROUTER, rank_only=True)
    assert not swept.lapsed
    assert await life.snapshot(raw(pool)) == before


async def test_ids_of_forgotten_requests_are_dropped(pool: Pool) -> None:
    """Ids of requests that the server has forgotten do not stay in queues, leases, delays, deadlines or clients."""
    ghost = "e" * 32
    waits = await life.submit(pool)
    head = await life.head(pool, waits)
    await raw(pool).delete(f"{PREFIX}request:{waits}", f"{PREFIX}role:planner", f"{PREFIX}agent:agent1")
    for name in ("leases", "delayed", "deadlines"):
        await raw(pool).zadd(f"{PREFIX}{name}", {ghost: 1})
    await raw(pool).sadd(f"{PREFIX}client:{CLIENT}", ghost)
    assert (await pool.survey()).heads[0].id == waits
    assert await pool.requests.dispatch(head, "lane1", "m1", "token") is None
    await life.vanish(pool)
    await life.pass_deadline(pool, waits)
    await raw(pool).delete(f"{PREFIX}request:{waits}")
    await life.sweep(pool)
    assert await audit(raw(pool)) == {}


@pytest.mark.parametrize("ending", ["cancelled", "expired"])
async def test_a_cancelled_or_expired_request_does_not_fail(pool: Pool, ending: str) -> None:
    """A request that is cancelled, or whose deadline passes, after its lapse was reported does not end as failed."""
    asked = await life.running(pool)
    await life.pass_lease(pool, asked.id)
    await life.watched(pool)
    assert [lapsed.id for lapsed in (await pool.beats.sweep(ROUTER)).lapsed] == [asked.id]
    if ending == "cancelled":
        assert await pool.requests.cancel(asked.id) == "flagged"
    else:
        await life.pass_deadline(pool, asked.id)
    async with life.listen(pool) as ear:
        assert not await pool.requests.fail(asked.id, asked.attempt, life.REFUSAL, lapsed=True)
        assert await ear.told(asked.id) == [ending]
    assert await audit(raw(pool)) == {asked.id: ending}
    assert await raw(pool).hget(f"{PREFIX}request:{asked.id}", "crashes") == b"1"


@pytest.mark.parametrize("lost", ["models", "limit", "offer"])
async def test_a_beat_bears_a_lane_without_all_its_fields(pool: Pool, lost: str) -> None:
    """A worker that accepts no new work writes what it knows where the server does not have all of its lane."""
    await life.open_lane(pool)
    await raw(pool).hdel(f"{PREFIX}lane:lane1:state", lost)
    unknown = replace(LANE, models=())
    await pool.beats.renew(WORKER, unknown, [], accepts_new_work=False)
    assert await raw(pool).hexists(f"{PREFIX}lane:lane1:state", lost)


async def test_a_shorter_lease_shortens_the_hold(pool: Pool) -> None:
    """No lease lapses for a full lease after the first look at a pool: the lease that is in force now."""
    await pool.beats.sweep(ROUTER)
    await pool.policies.write(Policy(lease_ms=300))
    await pool.beats.sweep(ROUTER)
    hold = await raw(pool).hget(f"{PREFIX}swept", "hold")
    assert hold is not None
    assert int(hold) - (await pool.survey()).now_ms <= 300
