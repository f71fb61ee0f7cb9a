"""A full server, a wiped one, and one that is part of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration import life
from tests.integration.life import AGENT, CLIENT, LANE, PREFIX, ROUTER, WORKER, audit, raw
from tests.integration.servers import free_port, valkey
from tests.lanes import chats

from tokenlane.routing.carry_out_recovery import recover
from tokenlane.routing.contract.errors import PoolUnavailable, QueueFull, RequestLost
from tokenlane.routing.decide.lanes.offer import Announcement, Running
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.watch.parse_snapshot import take_snapshot

ROOMY = Announcement(LANE.lane, LANE.provider, LANE.endpoint, LANE.models, offer=chats(20))


@asynccontextmanager
async def no_memory(pool: Pool) -> AsyncIterator[None]:
    """The server has less memory than it uses, and drops nothing by itself."""
    await raw(pool).config_set("maxmemory-policy", "noeviction")
    await raw(pool).config_set("maxmemory", "1mb")
    try:
        yield
    finally:
        await raw(pool).config_set("maxmemory", "0")


async def test_a_full_server_refuses_submissions_only(pool: Pool) -> None:
    """Without memory submit is refused and changes nothing, and all that lives can go on to its end."""
    await life.beat(pool, WORKER, ROOMY)
    states = ("waiting", "waiting", "delayed", "dispatched", "dispatched", "running", "running", "running", "running")
    asked = [await life.bring(pool, state) for state in states]
    await life.beat(pool, WORKER, ROOMY)
    waits, cancelled, delayed, starts, lapses, finishes, requeued, kept, late = asked
    async with no_memory(pool):
        before = await life.snapshot(raw(pool))
        with pytest.raises(QueueFull, match="maxmemory") as refused:
            await life.submit(pool)
        assert refused.value.retry_after_s == 1.0
        assert await life.snapshot(raw(pool)) == before
        await life.submit(pool, life.envelope(waits.id))

        assert await life.dispatch(pool, waits.id) is not None
        assert await pool.requests.cancel(cancelled.id) == "cancelled"
        assert await pool.requests.fail(delayed.id, delayed.attempt, life.REFUSAL)
        assert await pool.requests.start(starts.id, starts.attempt, WORKER) is not None
        assert await life.finish(pool, finishes)
        assert await pool.requests.requeue(requeued.id, requeued.attempt, WORKER, 60_000) == "delayed"
        await pool.beats.register(WORKER, ROOMY.lane, life.FACTS)
        assert await life.beat(pool, WORKER, ROOMY, life.hold(kept)) == ("mine",)
        assert (await take_snapshot(pool)).lanes[0].workers[0].host == life.FACTS.host
        assert await pool.requests.cancel(kept.id) == "flagged"
        assert (await pool.beats.check(CLIENT, [kept.id])).statuses[0].state == "running"
        await raw(pool).delete(f"{PREFIX}request:{'0' * 32}")
    for request_id in (lapses.id, late.id):
        await life.pass_lease(pool, request_id)
    await life.pass_deadline(pool, late.id)
    await life.pass_delay(pool, requeued.id)
    await raw(pool).hset(f"{PREFIX}swept", mapping={"at": (await pool.survey()).now_ms, "hold": 0})
    async with no_memory(pool):
        swept = await pool.beats.sweep(ROUTER)
        assert [lapsed.id for lapsed in swept.lapsed] == [lapses.id]
        await recover(pool, swept.lapsed)
        assert await life.beat(pool, "worker2", ROOMY) == ()
        await pool.beats.leave("client2")
    found = await audit(raw(pool))
    assert [found[it.id] for it in asked] == [
        *("dispatched", "cancelled", "failed", "running", "waiting", "completed", "waiting", "running", "expired"),
    ]
    await life.submit(pool)


async def test_a_wiped_server_keeps_what_runs(pool: Pool) -> None:
    """After a wipe the worker's beat makes its requests known again: they count, and end as usual."""
    asked = await life.running(pool)
    await raw(pool).flushall()
    assert await life.beat(pool, WORKER, LANE, life.hold(asked)) == ("mine",)
    assert await audit(raw(pool)) == {asked.id: "running"}
    assert (await pool.survey()).lanes[0].credit_for("chat") == LANE.offer.limit_of("chat") - 1
    assert await life.beat(pool, WORKER, LANE, life.hold(asked)) == ("mine",)
    assert await pool.requests.start(asked.id, asked.attempt, "worker2") is None
    assert await pool.requests.start(asked.id, asked.attempt, WORKER) is None
    job = f"{{main}}{asked.id}:{asked.attempt}"
    assert await raw(pool).get(f"{{main}}:arq:in-progress:{job}") == b"1"
    async with life.listen(pool) as ear:
        assert await life.finish(pool, asked)
        assert await ear.told(asked.id) == ["completed"]
    assert await audit(raw(pool)) == {asked.id: "completed"}
    assert (await pool.survey()).lanes[0].credit_for("chat") == LANE.offer.limit_of("chat")


@pytest.mark.parametrize("gone", ["draining", "dead"])
async def test_what_was_wiped_is_sent_again(gone: str, pool: Pool) -> None:
    """If the server has lost the payload, no other worker can run the request. So the pool forgets it when its worker
    gives it back or dies, and tells nobody; its agent finds it missing, and its next attempt is a newer one."""
    asked = await life.running(pool)
    await raw(pool).flushall()
    await life.beat(pool, WORKER, LANE, life.hold(asked))
    async with life.listen(pool) as ear:
        if gone == "draining":
            for _ in range(2):
                assert await pool.requests.requeue(asked.id, asked.attempt, WORKER) == "lost"
            assert await audit(raw(pool)) == {asked.id: "running"}
            for stranger in ("worker2", ""):
                assert await pool.requests.forget(asked.id, asked.attempt, stranger) == "stale"
            for _ in range(2):
                assert await pool.requests.forget(asked.id, asked.attempt, WORKER) == "forgotten"
        else:
            await life.pass_lease(pool, asked.id)
            await life.sweep(pool)
            assert await pool.requests.forget(asked.id, asked.attempt, "") == "forgotten"
        assert await ear.told(asked.id) == []
    assert await audit(raw(pool)) == {}
    assert not await raw(pool).exists(f"{PREFIX}leases", f"{PREFIX}deadlines", f"{PREFIX}client:{CLIENT}")
    await life.submit(pool, life.envelope(asked.id), floor=asked.attempt)
    again = await life.running(pool, asked.id)
    assert again.attempt > asked.attempt
    assert await pool.requests.forget(again.id, again.attempt, WORKER) == "stale"
    assert await audit(raw(pool)) == {asked.id: "running"}


@pytest.mark.parametrize("reason", ["cancelled", "expired"])
async def test_what_was_wiped_and_is_no_longer_wanted_ends(reason: str, pool: Pool) -> None:
    """A request that was cancelled, or whose deadline has passed, ends, and its agents learn why."""
    asked = await life.running(pool)
    await raw(pool).flushall()
    await life.beat(pool, WORKER, LANE, life.hold(asked))
    if reason == "cancelled":
        assert await pool.requests.cancel(asked.id) == "flagged"
    else:
        await life.pass_deadline(pool, asked.id)
    async with life.listen(pool) as ear:
        for _ in range(2):
            assert await pool.requests.forget(asked.id, asked.attempt, WORKER) == reason
        assert await ear.told(asked.id) == [reason]
    assert await audit(raw(pool)) == {asked.id: reason}


async def test_a_wiped_request_is_cancelled_as_any_other(pool: Pool) -> None:
    """A request written anew obeys deadlines, cancelling, and the loss of its client."""
    late, cancelled = await life.running(pool), await life.running(pool)
    await raw(pool).flushall()
    await life.beat(pool, WORKER, LANE, life.hold(late, left_ms=0), life.hold(cancelled))
    await life.vanish(pool)
    await life.sweep(pool)
    assert await life.beat(pool, WORKER, LANE, life.hold(late), life.hold(cancelled)) == ("expired", "cancelled")
    await audit(raw(pool))


async def test_what_is_cancelled_before_its_worker_writes_it_anew(pool: Pool) -> None:
    """Whoever cancels a request while a wiped server does not know it, the worker that runs it is told by its beat."""
    asked, other = await life.running(pool), await life.running(pool)
    await raw(pool).flushall()
    assert await pool.requests.cancel(asked.id, life.CLIENT) == "unknown"
    for _ in range(2):
        held = life.hold(asked), life.hold(other)
        assert await life.beat(pool, WORKER, LANE, *held) == ("cancelled", "mine")
    await audit(raw(pool))
    assert await life.finish(pool, asked, "cancelled")
    assert (await audit(raw(pool)))[asked.id] == "cancelled"


async def test_a_resubmission_wins_over_a_late_beat(pool: Pool) -> None:
    """A request sent again after a wipe has a newer attempt, and the worker that ran the old one lets go."""
    asked = await life.running(pool)
    await raw(pool).flushall()
    await life.submit(pool, life.envelope(asked.id), floor=asked.attempt)
    assert await life.beat(pool, WORKER, LANE, life.hold(asked)) == ("stale",)
    attempt = await life.dispatch(pool, asked.id)
    assert attempt is not None
    assert attempt > asked.attempt
    await audit(raw(pool))


async def test_many_requests_at_once(pool: Pool) -> None:
    """A worker may beat for 2,000 requests, and a client ask for 128."""
    held = [Running(f"{number:032x}", 1_700_000_000_000, CLIENT, AGENT, "planner", "chat", 60_000)
            for number in range(2000)]  # fmt: skip
    beat = await pool.beats.renew(WORKER, ROOMY, held, accepts_new_work=True)
    assert beat.outcomes == ("mine",) * 2000
    assert set((await audit(raw(pool))).values()) == {"running"}
    statuses = (await pool.beats.check(CLIENT, [one.id for one in held[:128]])).statuses
    assert {(it.state, it.attempt) for it in statuses} == {("running", 1_700_000_000_000)}


async def test_a_life_on_a_cluster(cluster_url: str) -> None:
    """All keys of a pool lie in one slot, so every script is legal on a server in cluster mode."""
    async with connect(cluster_url) as pool:
        await pool.policies.write(await pool.policies.read())
        asked = await life.running(pool)
        await life.beat(pool, WORKER, LANE, life.hold(asked))
        await pool.requests.requeue(asked.id, asked.attempt, WORKER, due_ms=60_000)
        await life.pass_delay(pool, asked.id)
        await life.sweep(pool)
        asked = await life.running(pool, asked.id)
        await pool.requests.cancel(asked.id)
        await life.sweep(pool)
        assert await pool.requests.finish(asked.id, asked.attempt, WORKER, "failed", 1, "", b"{}")
        lost = await life.running(pool)
        await raw(pool).delete(f"{PREFIX}request:{lost.id}")
        await life.beat(pool, WORKER, LANE, life.hold(lost))
        await pool.beats.check(CLIENT, [asked.id])
        await life.submit(pool)
        await life.vanish(pool)
        await life.sweep(pool)
        await pool.beats.leave(CLIENT)
        await pool.requests.fail(await life.submit(pool), 0, life.REFUSAL)
        await pool.publish([(pool.keys.deltas(asked.id), b"{}")])
        assert len((await pool.survey()).lanes) == 1


@pytest.fixture
async def cluster_url(tmp_path: Path) -> AsyncIterator[str]:
    """A server in cluster mode that has all slots."""
    async with valkey(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as port:
        url = f"redis://127.0.0.1:{port}"
        async with connect(url) as pool, asyncio.timeout(10):
            await raw(pool).execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            while b"cluster_state:ok" not in await raw(pool).execute_command("CLUSTER", "INFO"):
                await asyncio.sleep(0.01)
        yield url


async def test_an_answer_that_ends_as_the_server_is_wiped(pool: Pool) -> None:
    """The worker is told that the server knows nothing of its request; after its beat it can be ended as any other."""
    asked = await life.running(pool)
    await raw(pool).flushall()
    for _ in range(2):
        with pytest.raises(RequestLost):
            await life.finish(pool, asked)
    await life.beat(pool, WORKER, LANE, life.hold(asked))
    assert await life.finish(pool, asked)
    assert await audit(raw(pool)) == {asked.id: "completed"}


async def test_who_runs_what_was_sent_again_asks_first(pool: Pool) -> None:
    """An attempt from before a wipe may still have spoken: the next one counts as a later start."""
    await life.beat(pool)
    request_id = await life.submit(pool, floor=10**13)
    attempt = await life.dispatch(pool, request_id)
    assert attempt is not None
    started = await pool.requests.start(request_id, attempt, WORKER)
    assert started is not None
    assert started.starts == 2


async def test_a_policy_that_cannot_be_read(pool: Pool) -> None:
    """A policy of another version is an error of the pool that names what is wrong; writing one mends it."""
    document = Policy().model_dump_json().replace('"start_lease_ms":2000', '"start_lease_ms":5')
    await raw(pool).hset(f"{PREFIX}policy", mapping={"revision": 7, "document": document})
    with pytest.raises(PoolUnavailable, match="start_lease_ms"):
        await pool.policies.read()
    await pool.policies.write(Policy())
    assert (await pool.policies.read()).revision == 8


async def test_a_queue_of_another_version(pool: Pool) -> None:
    """A queue of a kind or priority that this version does not know is left alone; the others are served."""
    known = await life.submit(pool)
    of = life.envelope()
    await life.submit(pool, of)
    (queue,) = {head.queue.name for head in (await pool.survey()).heads}
    strange = queue.replace(":normal:", ":urgent:")
    assert strange != queue
    for key in await raw(pool).keys(f"{PREFIX}queue:{queue}*"):
        await raw(pool).copy(key, key.decode().replace(queue, strange))
    await raw(pool).sadd(f"{PREFIX}queues", strange)
    assert [head.queue.name for head in (await pool.survey()).heads] == [queue]
    assert known
