"""Two of everything at once, and everything at once in random order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from tests.integration import life
from tests.integration.life import CLIENT, ENDED, LANE, LIVE, PREFIX, WORKER, audit, raw
from tests.lanes import chats

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.carry_out_recovery import recover
from tokenlane.routing.contract.errors import Duplicate, ModelNotFound
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.lanes.offer import Announcement, Running
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.role_fairness import fair_order
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.request_life import Ending

LANES = {
    "worker1": LANE,
    "worker2": LANE,
    "worker3": Announcement("lane2", "sim", "http://gpu2:8080", ("m1",), offer=chats(1)),
}


async def test_two_routers_dispatch_the_same_heads(pool: Pool) -> None:
    """Each head goes to one lane once, and no lane gets more than its credit."""
    for worker, lane in LANES.items():
        await life.beat(pool, worker, lane)
    for number in range(5):
        await life.submit(pool, life.envelope(agent=f"agent{number}", model=f"m{number}"))
    heads = (await pool.survey()).heads

    async def route(lanes: list[str]) -> list[int | None]:
        return await asyncio.gather(
            *(pool.requests.dispatch(head, lane, "m1", new_id()) for head in heads for lane in lanes)
        )

    given = await asyncio.gather(route(["lane1", "lane2"]), route(["lane2", "lane1"]))
    assert sum(attempt is not None for attempts in given for attempt in attempts) == 3
    assert Counter((await audit(raw(pool))).values()) == {"dispatched": 3, "waiting": 2}
    assert [lane.credit_for("chat") for lane in (await pool.survey()).lanes] == [0, 0]


async def test_two_workers_start_one_attempt(pool: Pool) -> None:
    """Of many workers that start an attempt, one runs it."""
    asked = await life.dispatched(pool)
    started = await asyncio.gather(
        *(pool.requests.start(asked.id, asked.attempt, f"worker{number}") for number in range(10))
    )
    assert sum(it is not None for it in started) == 1
    assert await audit(raw(pool)) == {asked.id: "running"}


async def test_two_sweeps(pool: Pool) -> None:
    """Sweeps at the same time do the work once."""
    asked = await life.running(pool)
    await life.pass_lease(pool, asked.id)
    swept = await asyncio.gather(*(life.sweep(pool, f"host{number}/1") for number in range(4)))
    assert {lapsed.id for it in swept for lapsed in it.lapsed} == {asked.id}
    assert await raw(pool).hget(f"{PREFIX}request:{asked.id}", "crashes") == b"1"
    assert await audit(raw(pool)) == {asked.id: "waiting"}


@pytest.mark.parametrize("state", LIVE)
async def test_two_clients_cancel(pool: Pool, state: str) -> None:
    """Cancelling at the same time answers alike, and an agent is told at most once."""
    asked = await life.bring(pool, state)
    async with life.listen(pool) as ear:
        answers = await asyncio.gather(*(pool.requests.cancel(asked.id) for _ in range(4)))
        assert set(answers) == {"flagged" if state == "running" else "cancelled"}
        assert len(await ear.told(asked.id)) == (0 if state == "running" else 1)
    await audit(raw(pool))


async def test_one_of_two_endings_counts(pool: Pool) -> None:
    """Of all endings that race, one is the request's, and the agent is told that one only."""
    asked = await life.running(pool)
    async with life.listen(pool) as ear:
        calls = [pool.requests.finish(asked.id, asked.attempt, WORKER, end, 1, "", b'{"type":"%s"}' % end.encode())
                 for end in _ENDINGS]  # fmt: skip
        answers = await asyncio.gather(*calls, pool.requests.requeue(asked.id, asked.attempt, WORKER))
        told = await ear.told(asked.id)
    (state,) = (await audit(raw(pool))).values()
    assert sum(answer in ("done", "missed") for answer in answers) == (0 if state == "waiting" else 1)
    assert told == ([] if state == "waiting" else [state])


_ENDINGS: tuple[Ending, ...] = ("completed", "failed", "cancelled", "expired")
_OUTCOMES = {*ENDED}


async def sweep_says_what_is_due(pool: Pool) -> None:
    """A router that looks again when a sweep says so is late for nothing that the server holds."""
    before_ms = (await pool.survey()).now_ms
    swept = await pool.beats.sweep(life.ROUTER)
    after = await pool.survey()
    after_ms, states = after.now_ms, {*(await audit(raw(pool))).values()}
    assert (swept.waits, swept.runs) == ("waiting" in states, bool(states & {"dispatched", "running"}))
    assert swept.revision == after.revision
    orphan_ms, hold_ms = Policy().orphan_ms, int(await raw(pool).hget(f"{PREFIX}swept", "hold"))
    due_ms = [due_ms for key in ("delayed", "deadlines") for _, due_ms in await _scores(pool, key)]
    due_ms += [max(beat_ms + orphan_ms, hold_ms) for _, beat_ms in await _scores(pool, "clients")]
    for at_ms in due_ms:
        assert swept.more or before_ms + swept.due_ms <= max(at_ms, after_ms)


async def _scores(pool: Pool, key: str) -> list[tuple[bytes, float]]:
    return list(await raw(pool).zrange(PREFIX + key, 0, -1, withscores=True))


class World:
    """Two routers, three workers on two lanes and three agents, doing whatever comes to their minds."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self.pool = pool
        self.dice = random.Random(seed)
        self.accepted: list[str] = []
        self.runs: dict[str, dict[str, int]] = {worker: {} for worker in LANES}
        self.history: list[str] = []
        self.alone = True

    async def step(self) -> None:
        """Some operations, at the same time."""
        operations = self.dice.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=self.dice.randint(1, 4))
        self.history.extend(operation.__name__ for operation in operations)
        self.alone = len(operations) == 1
        await asyncio.gather(*(operation(self) for operation in operations))

    async def submit(self) -> None:
        number = self.dice.randint(1, 3)
        of = life.envelope(
            agent=f"agent{number}",
            client=f"client{number}",
            role=self.dice.choice(["planner", "coder"]),
            priority=self.dice.choice(["high", "normal", "low"]),
        )
        once = self.dice.choice([None, None, *(f"{key:032x}" for key in range(8))])
        of = of.model_copy(update={"idempotency": once})
        submissions = (self.pool.requests.submit(of, b"sealed") for _ in range(self.dice.randint(1, 2)))
        accepted = await asyncio.gather(*submissions, return_exceptions=True)
        assert all(isinstance(one, Duplicate | str) for one in accepted), accepted
        ids = {one for one in accepted if isinstance(one, str)}
        self.accepted.extend(ids - {*self.accepted})

    async def route(self) -> None:
        heads = fair_order((await self.pool.survey()).heads, {}, "lane1")
        for head in heads:
            lane, token = self.dice.choice(["lane1", "lane2"]), new_id()
            times = self.dice.randint(1, 2)
            given = await asyncio.gather(*(self.pool.requests.dispatch(head, lane, "m1", token) for _ in range(times)))
            # What others do between the two may let only one of them through.
            assert len(set(given) - ({None} if not self.alone else set())) <= 1

    async def pick_up(self) -> None:
        worker = self._worker()
        for job in await raw(self.pool).zrange(self.pool.keys.lane_queue(LANES[worker].lane), 0, -1):
            request_id, attempt = job.decode().removeprefix("{main}").split(":")
            started = await self.pool.requests.start(request_id, int(attempt) - self.dice.choice([0, 0, 0, 1]), worker)
            if started is not None:
                self.runs[worker][request_id] = int(attempt)

    async def renew(self) -> None:
        await self._renew(self._worker())

    async def _renew(self, worker: str) -> None:
        held = dict(self.runs[worker])
        running = [Running(it, attempt, CLIENT, "agent1", "planner", "chat", 60_000) for it, attempt in held.items()]
        takes = self.dice.random() < 0.9
        beat = await self.pool.beats.renew(worker, LANES[worker], running, accepts_new_work=takes)
        for (request_id, attempt), hold in zip(held.items(), beat.outcomes, strict=True):
            if hold == "stale" and self.runs[worker].get(request_id) == attempt:
                del self.runs[worker][request_id]
            elif hold in ("cancelled", "expired"):
                await self._finish(worker, request_id, attempt, hold)

    async def finish(self) -> None:
        worker = self._worker()
        for request_id, attempt in self._some(worker):
            await self._finish(worker, request_id, attempt, self.dice.choice(_ENDINGS))

    async def _finish(self, worker: str, request_id: str, attempt: int, ending: Ending) -> None:
        message = b'{"type":"%s"}' % ending.encode()
        for _ in range(self.dice.randint(1, 2)):
            await self.pool.requests.finish(request_id, attempt, worker, ending, 1, "", message)
        self.runs[worker].pop(request_id, None)

    async def requeue(self) -> None:
        worker = self._worker()
        for request_id, attempt in self._some(worker):
            counts, due_ms = self.dice.random() < 0.5, self.dice.choice([0, 60_000])
            for _ in range(self.dice.randint(1, 2)):
                await self.pool.requests.requeue(request_id, attempt, worker, due_ms, counts=counts)
            self.runs[worker].pop(request_id, None)

    async def cancel(self) -> None:
        if self.accepted:
            await self.pool.requests.cancel(self.dice.choice(self.accepted))

    async def refuse(self) -> None:
        if self.accepted:
            await self.pool.requests.fail(self.dice.choice(self.accepted), 0, ModelNotFound())

    async def die(self) -> None:
        runs = self.runs[self._worker()]
        for request_id in list(runs):
            runs.pop(request_id, None)
            await life.pass_lease(self.pool, request_id)

    async def pass_time(self) -> None:
        if self.accepted:
            passes = self.dice.choice([life.pass_lease, life.pass_delay, _pass_deadline])
            await passes(self.pool, self.dice.choice(self.accepted))

    async def vanish(self) -> None:
        await life.vanish(self.pool, f"client{self.dice.randint(1, 3)}")

    async def attach(self) -> None:
        if self.accepted:
            await self.pool.requests.attach(f"client{self.dice.randint(1, 3)}", self.dice.choice(self.accepted))

    async def drop_failed(self) -> None:
        if self.accepted:
            await self.pool.records.drop_failed([self.dice.choice(self.accepted)])

    async def check(self) -> None:
        checked = await self.pool.beats.check(f"client{self.dice.randint(1, 3)}", self.accepted[-100:])
        if self.dice.random() < 0.5:  # who asked may be gone before it has done what is left to do
            await recover(self.pool, checked.lapsed)

    async def sweep(self) -> None:
        await life.sweep(self.pool, f"host/{self.dice.randint(1, 2)}")

    async def settle(self) -> None:
        """Go on without new requests until all have ended."""
        for _ in range(len(self.accepted) + 10):
            states = await audit(raw(self.pool))
            if not set(states.values()) & {*LIVE}:
                return
            for request_id in self.accepted:
                await life.pass_delay(self.pool, request_id)
                if states.get(request_id) == "dispatched":
                    await life.pass_lease(self.pool, request_id)
            await self.sweep()
            for worker in LANES:
                await self._renew(worker)
            await asyncio.gather(self.route(), self.route())
            await asyncio.gather(*(self.pick_up() for _ in range(6)))
            for worker, runs in self.runs.items():
                for request_id, attempt in list(runs.items()):
                    await self._finish(worker, request_id, attempt, "completed")
        pytest.fail("some requests do not end")

    def _worker(self) -> str:
        return self.dice.choice([*LANES])

    def _some(self, worker: str) -> list[tuple[str, int]]:
        runs = list(self.runs[worker].items())
        return self.dice.sample(runs, min(len(runs), 1))


async def _pass_deadline(pool: Pool, request_id: str) -> None:
    # Of live ones only: setting a field of an ended request is nothing that time does.
    if await raw(pool).zscore(f"{PREFIX}deadlines", request_id) is not None:
        await life.pass_deadline(pool, request_id)


_WEIGHTS: dict[Callable[[World], Awaitable[None]], int] = {
    World.submit: 8,
    World.route: 8,
    World.pick_up: 8,
    World.renew: 6,
    World.finish: 4,
    World.requeue: 2,
    World.cancel: 2,
    World.refuse: 1,
    World.die: 1,
    World.pass_time: 2,
    World.vanish: 1,
    World.attach: 1,
    World.drop_failed: 1,
    World.check: 2,
    World.sweep: 3,
}


@pytest.mark.many_commands
@pytest.mark.parametrize("seed", [1, 2, None])
async def test_every_accepted_request_ends_once(pool: Pool, seed: int | None) -> None:
    """Whatever happens in whatever order: the server's keys are sound after each step, each request ends exactly
    once, and in the end all lanes have all their credit. Without a seed, one that was never tried."""
    seed = seed or random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it with the failure
    await pool.key_agreement.join(KeyRing((PoolKey.new(),)), unseals=True)
    await pool.policies.write(Policy(keep_payload=True))
    world = World(pool, seed)
    async with life.listen(pool) as ear:
        for worker, lane in LANES.items():
            await life.beat(pool, worker, lane)
        for _ in range(150):
            await world.step()
            await audit(raw(pool))
            await sweep_says_what_is_due(pool)
        await world.settle()
        heard = await ear.heard()
    ends = Counter(channel.removeprefix("deltas:") for channel, content in heard if content.get("type") in _OUTCOMES)
    assert ends == Counter(world.accepted), world.history
    assert all(not any(lane.queued.values()) for lane in (await pool.survey()).lanes)
    left = {key.removeprefix(PREFIX) for key in await life.dump(raw(pool)) if "request:" not in key}
    assert not {name for name in left if name.startswith(("role:", "queue", "client:", "agent:", "arq:", "lease"))}
