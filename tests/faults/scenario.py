"""A server with three workers on two lanes, or one on one, agents that ask, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tests.faults.history import Accepted, CancelAsked, Ended, Event, Got, Sent
from tests.integration.farm import Child, Farm, Server, eventually, farm
from tests.integration.life import ENDED, audit, raw

from tokenlane.benches.simulator import Simulator
from tokenlane.producer import Client, Interrupted, LlmError
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import connect

__all__ = ["LANES", "Site", "ask", "settled", "site"]

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
    variables: Mapping[str, str] = field(default_factory=dict)

    async def open(self, lane: str) -> Child:
        """One more worker of that lane."""
        options = ("--capacity", str(CAPACITY))
        worker = partial(self.farm.worker, lane, self.backends[lane], *options, provider=self.provider)
        child = await worker(**self.variables)
        self.workers[child] = lane
        return child

    async def replace(self, child: Child, gone: Callable[[Child], Awaitable[object]]) -> None:
        """Have one worker go in some way, and another take its place."""
        lane = self.workers.pop(child)
        await asyncio.gather(gone(child), self.open(lane))


@asynccontextmanager
async def site(
    directory: Path,
    policy: Policy = POLICY,
    lanes: tuple[str, ...] = LANES,
    provider: str = "openai",
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Site]:
    """A server that keeps its data, and a ready worker for each lane named, with these environment variables. Provider
    `llamacpp` continues answers."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(directory))
        pool = await stack.enter_async_context(connect(server.url))
        await pool.policies.write(policy)
        backends = {lane: await stack.enter_async_context(Simulator(capacity=64)) for lane in set(lanes)}
        opened = Site(server, await stack.enter_async_context(farm(directory, server.url)), backends)
        opened.provider, opened.variables = provider, variables or {}
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


async def _drained(child: Child) -> None:
    ended = await child.end()
    assert ended.code == 0, ended


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
