"""Whatever delays a request, no model server is asked after its deadline."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue
from tests.faults.tcp_proxy import TcpProxy, tcp_proxy
from tests.integration.farm import Child, Server, farm
from tests.integration.life import PREFIX, audit, raw

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.producer import Client, LlmError
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool, connect

REQUESTS: Final = 80
ASKED_IN_S: Final = 4.0
DISTURBED_S: Final = 1.3
"""How long a worker is frozen or cut off: longer than its lease."""
BUSY_S: Final = 0.3
"""How much later than sent a request may seem to arrive, since this process runs agents and model servers as well."""
LANES: Final = ("gpu0", "gpu1")
POLICY: Final = Policy(
    roles={"planner": RolePolicy(route=tuple(Candidate(lane=lane) for lane in LANES))},
    lease_ms=1_000,
    start_lease_ms=700,
    max_crashes=100,
    max_starts=100,
)


class ClockedSimulator(Simulator):
    """A model server that notes when each question arrives."""

    def __init__(self) -> None:
        super().__init__(api="llamacpp", capacity=64, itl_ms=25)
        self.arrivals: list[tuple[int, float]] = []

    def _pick_fault(self, path: str, model: str, parsed: dict[str, JsonValue], *, chats: bool) -> FaultScript:
        if question := re.search(r"question ([0-9]+)\.", json.dumps(parsed)):
            self.arrivals.append((int(question[1]), time.time()))
        return super()._pick_fault(path, model, parsed, chats=chats)


@dataclass
class Place:
    """A worker, its connection to Redis, and its model server."""

    worker: Child
    redis: TcpProxy
    server: ClockedSimulator


@asynccontextmanager
async def places(directory: Path, pool_port: int) -> AsyncIterator[list[Place]]:
    """A worker for each lane, each with a connection of its own to Redis, and one router that nothing disturbs."""
    async with AsyncExitStack() as stack:
        opened = []
        for lane in LANES:
            proxy = await stack.enter_async_context(tcp_proxy(pool_port))
            server = await stack.enter_async_context(ClockedSimulator())
            (directory / lane).mkdir()
            workers = await stack.enter_async_context(farm(directory / lane, f"redis://127.0.0.1:{proxy.port}/0"))
            opened.append(
                Place(await workers.worker(lane, server, "--capacity", "4", provider="llamacpp"), proxy, server)
            )
        others = await stack.enter_async_context(farm(directory, f"redis://127.0.0.1:{pool_port}/0"))
        await others.tokenlane("router")
        yield opened


async def test_no_model_server_is_asked_after_a_deadline(tmp_path: Path) -> None:
    """Requests wait, fail, are delayed by `Retry-After` and handed over in mid-answer, while workers freeze or cannot
    reach Redis. The clocks of their hosts do not matter, since workers get a time span."""
    rng = random.Random(0)
    async with Server(tmp_path) as redis, connect(redis.url) as pool:
        await pool.policies.write(POLICY)
        async with places(tmp_path, redis.port) as opened, Client(redis.url) as client:
            scripts = (
                *(FaultScript(status=503), FaultScript(status=429, retry_after="1"), FaultScript(drop=True)),
                *(FaultScript(cut_after=after) for after in (0, 3, 8)),
            )
            for place in opened:
                place.server.faults += rng.choices((*scripts, *(FaultScript() for _ in scripts)), k=REQUESTS)
            async with asyncio.TaskGroup() as tasks:
                asked = [
                    tasks.create_task(_ask(client, number, rng.random(), rng.random())) for number in range(REQUESTS)
                ]
                tasks.create_task(_disturb(opened))
            deadlines = [await _deadline(pool, task.result()) for task in asked]
            arrivals = [arrival for place in opened for arrival in place.server.arrivals]
            assert len(arrivals) > REQUESTS / 2
            late = [(number, at - deadlines[number]) for number, at in arrivals if at > deadlines[number] + BUSY_S]
            assert late == []
            await _nothing_lives(pool)


async def _ask(client: Client, number: int, when: float, how_long: float) -> str:
    """Ask at some time, with a deadline so close that many requests miss it, and return the request's id."""
    await asyncio.sleep(when * ASKED_IN_S)
    stream = client.chat(f"question {number}.", role="planner", time_to_live_ms=int(100 + 1_500 * how_long))
    try:
        async with stream:
            await stream.answer()
    except LlmError:
        pass
    return stream.request_id


async def _disturb(opened: list[Place]) -> None:
    """Cut each worker off, and freeze each, one after another, while requests are asked."""
    for place in opened:
        await asyncio.sleep(0.2)
        await place.redis.stall(DISTURBED_S)
    for place in opened:
        place.worker.freeze()
        await asyncio.sleep(DISTURBED_S)
        place.worker.thaw()


async def _deadline(pool: Pool, request_id: str) -> float:
    """The request's deadline, in seconds of this host's clock."""
    return int(await raw(pool).hget(f"{PREFIX}request:{request_id}", "deadline")) / 1000


async def _nothing_lives(pool: Pool) -> None:
    """Every request has ended."""
    async with asyncio.timeout(20):
        while not {*(await audit(raw(pool))).values()} <= {"completed", "failed", "cancelled", "expired"}:
            await asyncio.sleep(0.05)
