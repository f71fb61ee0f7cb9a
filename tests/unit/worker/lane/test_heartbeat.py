from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.lanes import chats
from tests.waiting import until

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey, write_key_file
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import LaneConflict, PoolUnavailable
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import Announcement, Running, ServerFailure, WorkerInfo
from tokenlane.routing.decide.lanes.state import UP, ServerCondition
from tokenlane.routing.store.beats import RenewOutcome, RenewReply
from tokenlane.routing.store.keychain import Keychain
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.claim import ClaimedAttempt
from tokenlane.routing.support.tasks import background
from tokenlane.worker.lane.availability import Availability
from tokenlane.worker.lane.heartbeat import Heartbeat
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.publisher import Publisher
from tokenlane.worker.lane.running_attempts import Run, Runs, Stopped
from tokenlane.worker.metrics_server import WorkerHealth

FACTS = WorkerInfo("host1", {"tokenlane": "1"})
LANE = Announcement(lane="lane1", provider="fake", endpoint="http://here", models=("m",), offer=chats(2))


class FakePool:
    """Answers beats as the test demands."""

    def __init__(self, lease_ms: int = 60_000) -> None:
        self.lease_ms = lease_ms
        self.hold: RenewOutcome = "mine"
        self.conflict: str | None = None
        self.failing = False
        self.renewals: list[tuple[bool, list[str]]] = []
        self.beats = self
        self.refused = 0
        self.facts: WorkerInfo | None = None
        self.faults: list[str] = []
        self.keychain = Keychain(KeyRing(), "pool")
        self.announced: list[str] = []

    async def renew(
        self,
        worker: str,
        lane: Announcement,
        running: Sequence[Running],
        *,
        accepts_new_work: bool,
        condition: ServerCondition = UP,
        fault: ServerFailure | None = None,
        report: WorkerReport | None = None,
    ) -> RenewReply:
        if self.failing:
            self.refused += 1
            raise PoolUnavailable
        self.renewals.append((accepts_new_work, [run.id for run in running]))
        self.faults += [fault.code] if fault else []
        return RenewReply(self.conflict, self.lease_ms, tuple(self.hold for _ in running), self.facts is not None)

    async def register(self, worker: str, lane: str, facts: WorkerInfo) -> None:
        assert self.facts is None or self.announced[-1] != self.keychain.held, "sent only when they are missing"
        self.facts = facts
        self.announced.append(self.keychain.held)


def lease_of(pool: FakePool, runs: Runs) -> Heartbeat:
    return Heartbeat(cast("Pool", pool), "worker1", Availability(LANE), FACTS, runs)


def new_run() -> Run:
    request_id = new_id()
    envelope = Envelope(id=request_id, client="c", agent="a", role="r")
    started = ClaimedAttempt(
        5, envelope, b"", "m", starts=1, left_ms=60_000, waited_ms=0, cancelled=False, needs=envelope.needs
    )
    outlet = Publisher(cast("Pool", SimpleNamespace(keys=Keys())), "worker1", "lane1").open(request_id, 5, "m")
    return Run(started, 5, outlet)


async def wait_stoppably(run: Run, lease: Heartbeat) -> None:
    """Beat, and then wait for what never comes."""
    async with run.stoppable():
        await lease.beat()
        await asyncio.Event().wait()


@pytest.mark.parametrize("hold", ["stale", "cancelled", "expired"])
async def test_a_beat_stops_attempts_that_the_worker_has_lost(hold: RenewOutcome) -> None:
    """Each outcome but `mine` stops the run for that reason, and interrupts what it waits for."""
    pool, runs, run = FakePool(), Runs(), new_run()
    lease = lease_of(pool, runs)
    with runs.register(run):
        await lease.open()
        pool.hold = hold
        with pytest.raises(Stopped):
            await wait_stoppably(run, lease)
    assert run.stop_reason == hold
    assert [ids for _, ids in pool.renewals] == [[run.id], [run.id]]


async def test_a_beat_renews_only_leases_that_the_worker_wants() -> None:
    """The pool restores a request that it has lost and that a beat names, so a forgotten request is not named."""
    pool, runs, kept, forgotten = FakePool(), Runs(), new_run(), new_run()
    lease = lease_of(pool, runs)
    with runs.register(kept), runs.register(forgotten):
        forgotten.renews_lease = False
        await lease.beat()
    assert [ids for _, ids in pool.renewals] == [[kept.id]]


async def test_new_keys_are_announced(tmp_path: Path) -> None:
    """A worker reads its key file again at each beat, and registers its key ids when they have changed."""
    pool, file, old, new = FakePool(), tmp_path / "pool.key", PoolKey.new(), PoolKey.new()
    pool.keychain = Keychain(write_key_file(file, [old]), "pool")
    lease = lease_of(pool, Runs())
    await lease.open()
    async with background() as tasks:
        tasks.create_task(lease.run())
        write_key_file(file, [old], [new])
        lease.beat_soon()
        await until(lambda: len(pool.announced) == 2)
        lease.beat_soon()
        await until(lambda: len(pool.renewals) == 3)
    assert pool.announced == [old.id, f"{old.id} {new.id}"]


async def test_an_idle_worker_beats_three_times_in_each_lease() -> None:
    """The pause between beats follows the lease in the pool's reply, and needs no running request."""
    pool = FakePool(lease_ms=30)
    lease = lease_of(pool, Runs())
    await lease.open()
    async with background() as tasks:
        tasks.create_task(lease.run())
        await until(lambda: len(pool.renewals) > 5)
        assert lease._pause_s == pytest.approx(0.01)
    assert pool.renewals[-1] == (True, [])


async def test_an_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Failed beats are repeated soon, whatever the lease, and only the first failure is logged."""
    pool = FakePool(lease_ms=600_000)
    lease = lease_of(pool, Runs())
    await lease.open()
    async with background() as tasks:
        tasks.create_task(lease.run())
        pool.failing = True
        lease.beat_soon()
        await until(lambda: pool.refused >= 3)
        pool.failing = False
        await until(lambda: len(pool.renewals) == 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_conflict_at_the_first_beat_names_the_other_endpoint() -> None:
    """The error says which endpoint uses the lane's name."""
    pool = FakePool()
    pool.conflict = "http://elsewhere"
    with pytest.raises(LaneConflict, match=r"http://elsewhere.*http://here.*--lane"):
        await lease_of(pool, Runs()).open()


async def test_a_worker_whose_lane_name_is_taken_is_not_ready() -> None:
    """After a name was lost, for example as Redis was wiped, `/readyz` says to whom, until the worker has it again."""
    pool, availability = FakePool(), Availability(LANE)
    lease = Heartbeat(cast("Pool", pool), "worker1", availability, FACTS, Runs())
    lane = SimpleNamespace(name="lane1", pool="pool 'main'", heartbeat=lease, availability=availability)
    health = WorkerHealth(lane=cast("Lane", lane))
    await lease.open()
    assert await health.why_not_ready() == ""
    pool.conflict = "http://elsewhere"
    await lease.beat()
    assert "http://elsewhere" in await health.why_not_ready()
    pool.conflict = None
    await lease.beat()
    assert await health.why_not_ready() == ""
    availability.draining = True
    assert await health.why_not_ready() == "lane 'lane1' is draining"


async def test_an_older_beat_does_not_undo_a_drain() -> None:
    """Beats are sent one at a time, so the last one announces that the lane drains."""
    pool = FakePool(lease_ms=30)
    availability = Availability(LANE)
    lease = Heartbeat(cast("Pool", pool), "worker1", availability, FACTS, Runs())
    await lease.open()
    async with background() as tasks:
        tasks.create_task(lease.run())
        availability.draining = True
        await lease.beat()
        seen = len(pool.renewals)
        await until(lambda: len(pool.renewals) > seen + 2)
    assert not any(takes for takes, _ in pool.renewals[seen - 1 :])


async def test_what_several_attempts_announce_at_once_takes_one_beat() -> None:
    """A model server that refuses a request often refuses all that run."""
    pool, availability = FakePool(), Availability(LANE)
    lease = Heartbeat(cast("Pool", pool), "worker1", availability, FACTS, Runs())
    await lease.open()
    sent = len(pool.renewals)
    availability.most_at_once = 1
    await asyncio.gather(*(lease.announce() for _ in range(8)))
    assert len(pool.renewals) == sent + 1


async def test_worker_info_is_sent_when_the_server_lacks_it() -> None:
    """The worker registers after its first beat, and again only after the server has forgotten it."""
    pool = FakePool()
    lease = lease_of(pool, Runs())
    await lease.open()
    assert pool.facts == FACTS
    await lease.beat()  # would send them twice
    pool.facts = None
    await lease.beat()
    assert pool.facts == FACTS


async def test_worker_info_that_changes_during_a_registration_is_sent_too() -> None:
    """Information that changes while the old is being registered is registered after the next beat."""
    newer = WorkerInfo("host1", {"tokenlane": "1", "model server": "2"})

    class Slow(FakePool):
        async def register(self, worker: str, lane: str, facts: WorkerInfo) -> None:
            self.facts = facts
            lease.worker_info = newer

    pool = Slow()
    lease = lease_of(pool, Runs())
    await lease.open()
    await lease.beat()
    assert pool.facts == newer


async def test_a_failure_is_reported_until_the_server_has_it() -> None:
    """Each beat carries the newest failure, until a beat finds the worker registered."""
    pool = FakePool()
    lease = lease_of(pool, Runs())
    lease.report_failure("timeout")
    lease.report_failure("provider_down")
    for _ in range(3):
        await lease.open()
    assert pool.faults == ["provider_down", "provider_down"]


async def test_a_worker_whose_lane_name_is_taken_does_not_register() -> None:
    """While another endpoint uses the lane's name, the worker's information is not sent."""
    pool = FakePool()
    pool.conflict = "http://elsewhere"
    with pytest.raises(LaneConflict):
        await lease_of(pool, Runs()).open()
    assert pool.facts is None
