"""Agents that ask and a plan of faults, both drawn from a seed, over three workers on two lanes, or one on one."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.history import Accepted, CancelAsked, Ended, Event, Got, Sent
from tests.integration.farm import Child, Farm, Server, eventually, farm
from tests.integration.life import ENDED, audit, raw
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.producer import Client, Interrupted, LlmError
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import connect

__all__ = ["LANES", "Site", "ask", "converse", "misfortune", "settled", "site"]

CAPACITY: Final = 3
LANES: Final = ("gpu0", "gpu0", "gpu1")
LEASE_S: Final = 1.5
_ROLES = {
    "planner": ("gpu0", "gpu1"),
    "coder": ("gpu1", "gpu0"),
    "gpu0": ("gpu0",),
    "gpu1": ("gpu1",),
}
POLICY: Final = Policy(
    roles={role: RolePolicy(route=tuple(Candidate(lane=lane) for lane in lanes)) for role, lanes in _ROLES.items()},
    lease_ms=int(1000 * LEASE_S),
    start_lease_ms=700,
    max_crashes=100,
    max_starts=100,
    patience_ms=10_000,
)


@dataclass
class Site:
    """A server, a model server a lane, and the workers that live."""

    server: Server
    farm: Farm
    backends: dict[str, Simulator]
    workers: dict[Child, str] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)
    provider: str = "openai"

    async def open(self, lane: str) -> Child:
        """One more worker of that lane."""
        options = ("--capacity", str(CAPACITY))
        child = await self.farm.worker(lane, self.backends[lane], *options, provider=self.provider)
        self.workers[child] = lane
        return child

    async def replace(self, child: Child, gone: Callable[[Child], Awaitable[object]]) -> None:
        """Have one worker go in some way, and another take its place."""
        lane = self.workers.pop(child)
        await asyncio.gather(gone(child), self.open(lane))


@asynccontextmanager
async def site(
    directory: Path, policy: Policy = POLICY, lanes: tuple[str, ...] = LANES, provider: str = "openai"
) -> AsyncIterator[Site]:
    """A server that keeps its data, and a ready worker for each lane named. Provider `llamacpp` continues answers."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(directory))
        pool = await stack.enter_async_context(connect(server.url))
        await pool.policies.write(policy)
        backends = {lane: await stack.enter_async_context(Simulator(capacity=64)) for lane in set(lanes)}
        opened = Site(server, await stack.enter_async_context(farm(directory, server.url)), backends, provider=provider)
        await asyncio.gather(*(opened.open(lane) for lane in lanes))
        yield opened


async def ask(
    client: Client,
    history: list[Event],
    role: str,
    pieces: tuple[str, ...],
    cancel_at: int | None = None,
    **script: int,
) -> str:
    """Ask once, and record what comes of it; the code it ended with. `cancel_at`: cancel after so many deltas."""
    stream = client.chat("hi", role=role, extra={"simulate": {"pieces": list(pieces), **script}})
    of = stream.request_id
    history.append(Sent(of, "".join(pieces)))
    try:
        async with stream:
            history.append(Accepted(of))
            count = 0
            if cancel_at == 0:
                history.append(CancelAsked(of))
                await stream.cancel()
            async for delta in stream:
                history.append(Got(of, delta.attempt, delta.position, delta.text))
                count += 1
                if count == cancel_at:
                    history.append(CancelAsked(of))
                    await stream.cancel()
    except LlmError as error:
        history.append(Ended(of, error.code, error.partial if isinstance(error, Interrupted) else None))
        return error.code
    history.append(Ended(of, "completed"))
    return "completed"


async def converse(url: str, history: list[Event], rng: random.Random, agent: str, requests: int) -> None:
    """One agent: asks, so many at once, again until the pool has accepted as many as that."""
    async with Client(url, agent=agent) as client:
        todo = deque((number, rng.randrange(1 << 32)) for number in range(requests))

        async def work() -> None:
            while todo:
                number, seed = todo.popleft()
                own = random.Random(seed)
                pieces = tuple(f"{agent}.{number}.{place} " for place in range(own.randint(1, 30)))
                cancel_at = own.randrange(len(pieces) + 1) if own.random() < 0.15 else None
                role = own.choice(("planner", "coder"))
                how = await ask(client, history, role, pieces, cancel_at, itl_ms=own.choice((0, 10, 20)))
                if how in ("queue_full", "pool_unavailable"):
                    todo.append((number, seed))
                    await asyncio.sleep(0.1)

        await asyncio.gather(*(work() for _ in range(3)))


# What may go wrong. Each sets right again what it did.


async def _kill_worker(town: Site, rng: random.Random) -> None:
    await town.replace(_any(town, rng), Child.kill)


async def _drain_worker(town: Site, rng: random.Random) -> None:
    await town.replace(_any(town, rng), _drained)


async def _drained(child: Child) -> None:
    ended = await child.end()
    assert ended.code == 0, ended


async def _cut_clients(town: Site, rng: random.Random) -> None:
    for kind in rng.choice((("normal",), ("pubsub",), ("normal", "pubsub"))):
        await town.server.ask("CLIENT", "KILL", "TYPE", kind)


async def _cut_backends(town: Site, rng: random.Random) -> None:
    rng.choice(list(town.backends.values())).cut()


async def _stop_redis(town: Site, rng: random.Random) -> None:
    await town.server.kill()
    await asyncio.sleep(rng.uniform(0.5, 3))
    await town.server.start()


async def _freeze_redis(town: Site, rng: random.Random) -> None:
    town.server.freeze()
    await asyncio.sleep(rng.uniform(0.2, 3))
    town.server.thaw()


async def _fill_memory(town: Site, rng: random.Random) -> None:
    await town.server.ask("CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(rng.uniform(0.2, 2))
    await town.server.ask("CONFIG", "SET", "maxmemory", "0")


async def _freeze_worker(town: Site, rng: random.Random) -> None:
    child = _any(town, rng)
    child.freeze()
    await asyncio.sleep(rng.uniform(0.2, 2 * LEASE_S))
    child.thaw()


def _any(town: Site, rng: random.Random) -> Child:
    return rng.choice(list(town.workers))


_FAULTS: Final = (
    _kill_worker,
    _drain_worker,
    _cut_clients,
    _cut_backends,
    _stop_redis,
    _freeze_redis,
    _fill_memory,
    _freeze_worker,
)


async def misfortune(
    town: Site, rng: random.Random, over: Callable[[], bool], *, faults: int, of_events: int
) -> list[str]:
    """Have so many faults happen, each once as much has happened as the seed says, or all is over; what happened."""
    done = []
    for at in sorted(rng.randrange(of_events) for _ in range(faults)):
        await until(lambda at=at: over() or len(town.history) >= at, 40)  # type: ignore[misc]  # mypy cannot infer its default
        fault = rng.choice(_FAULTS)
        done.append(f"{fault.__name__.strip('_')} at {len(town.history)}")
        await fault(town, rng)
    return done


# Afterwards.


async def settled(town: Site, rng: random.Random) -> None:
    """Assert that every request has ended everywhere, and that every worker of every lane has all its slots."""
    for backend in town.backends.values():
        await backend.wait_for(lambda backend=backend: backend.running == 0)  # type: ignore[misc]  # as above
    async with Client(town.server.url, agent="last") as client:
        for lane in town.backends:
            await _full_house(client, town.backends[lane], lane)
        shared = [child for child, lane in town.workers.items() if lane == "gpu0"]
        for child in rng.sample(shared, len(shared) - 1):
            await _drained(child)
        await _full_house(client, town.backends["gpu0"], "gpu0")
    async with connect(town.server.url) as pool:

        async def tidy() -> bool:
            return not await raw(pool).keys("{main}:arq:*")

        await eventually(tidy)
        states = await audit(raw(pool))
        assert set(states.values()) <= set(ENDED), states
        assert not await raw(pool).keys("{main}:role:*")


async def _full_house(client: Client, backend: Simulator, lane: str) -> None:
    """As many requests as the lane takes run at once, and complete."""
    history: list[Event] = []
    tasks = [asyncio.create_task(ask(client, history, lane, ("a", "b"), hold_after=1)) for _ in range(CAPACITY)]
    await backend.held(CAPACITY)
    backend.release()
    assert await asyncio.gather(*tasks) == ["completed"] * CAPACITY
