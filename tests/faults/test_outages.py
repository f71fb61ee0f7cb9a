"""One outage of Redis after another, through which a worker, a router and an agent go on, on each event loop."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.faults.tcp_proxy import TcpProxy, tcp_proxy
from tests.integration.farm import ASYNCIO, Child, Farm, Server, eventually, farm
from tests.integration.life import ENDED, PREFIX, audit, raw

from tokenlane.benches.simulator import Simulator
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool, connect

CAPACITY: Final = 2
AT_ONCE: Final = CAPACITY + 1
"""How many questions the agent asks at once: one of them waits until another is answered."""
LEASE_S: Final = 1.0
POLICY: Final = Policy(lease_ms=int(1000 * LEASE_S))
TEXT: Final = "".join(f"w{number} " for number in range(16))

# Asks as many times as there are outages.
AGENT: Final = """
import asyncio, json, sys
from tokenlane.producer import Client

async def ask(client):
    stream = client.chat("hi", role="planner", extra={"simulate": {"hold_after": 5}})
    async with stream:
        deltas = [[delta.position, delta.attempt, delta.text] async for delta in stream]
    print(json.dumps(deltas), flush=True)

async def main():
    url, rounds, at_once = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    async with Client(url, agent="agent1") as client:
        for _ in range(rounds):
            await asyncio.gather(*(ask(client) for _ in range(at_once)))
        assert client.internal_errors == 0

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""
ARQ: Final = "from arq.cli import cli; cli()"


@dataclass
class Town:
    """A server, and all that is connected to it through one proxy."""

    server: Server
    proxy: TcpProxy
    pool: Pool
    backend: Simulator
    agent: Child

    def answers(self) -> list[list[tuple[int, int, str]]]:
        """The answers that the agent has read: the position, attempt and text of each delta."""
        out = self.agent.out
        return [json.loads(line) for line in out[: out.rfind("\n") + 1].splitlines()]

    async def answered(self, count: int) -> None:
        """Let the model server go on until the agent has so many answers. The agent's next questions stay held."""
        asked = AT_ONCE * math.ceil(count / AT_ONCE)

        async def enough() -> bool:
            assert self.agent.running or len(self.answers()) >= count, self.agent.error
            if len(self.backend.log) <= asked:
                self.backend.release()
            return len(self.answers()) >= count

        await eventually(enough, 60)


async def _restart(town: Town) -> None:
    await town.server.kill()
    await town.server.start()


async def _wipe(town: Town) -> None:
    await town.server.kill(wipe=True)
    await town.server.start()
    await town.pool.policies.write(POLICY)


async def _pause(town: Town) -> None:
    town.server.freeze()
    await asyncio.sleep(1.6 * LEASE_S)
    town.server.thaw()


async def _fill(town: Town) -> None:
    """What runs ends while the server is full."""
    before = len(town.answers())
    await town.server.ask("CONFIG", "SET", "maxmemory", "1")
    await town.answered(before + CAPACITY)
    await town.server.ask("CONFIG", "SET", "maxmemory", "0")


async def _kill_clients(town: Town) -> None:
    """Close every connection to the server, as an operator may, one kind after the other."""
    for kind in ("pubsub", "normal", "pubsub", "normal"):
        await town.server.ask("CLIENT", "KILL", "TYPE", kind)


async def _reset(town: Town) -> None:
    town.proxy.reset()


OUTAGES: Final[tuple[Callable[[Town], Awaitable[None]], ...]] = (_restart, _wipe, _pause, _fill, _kill_clients, _reset)


@asynccontextmanager
async def _town(directory: Path, loop: str) -> AsyncIterator[Town]:
    """A worker and an agent on that loop; `arq`: a worker that ARQ's own command runs. A router beside them."""
    async with (
        Server(directory) as server,
        connect(server.url) as pool,
        tcp_proxy(server.port) as proxy,
        Simulator(capacity=64) as backend,
        farm(directory, f"redis://127.0.0.1:{proxy.port}/0") as children,
    ):
        await pool.policies.write(POLICY)
        await children.tokenlane("router")
        worker = await _worker(children, loop, backend)

        async def serves() -> bool:
            return any(lane.state.accepts_work for lane in (await pool.survey()).lanes)

        await eventually(serves, 40)
        agent = await children.python(AGENT, loop, children.url, str(len(OUTAGES)), str(AT_ONCE))
        yield Town(server, proxy, pool, backend, agent)
        ended = await agent.ended()
        assert ended.code == 0, ended
        assert worker.running
        ended = await worker.end()
        assert ended.code == 0, ended


async def _worker(children: Farm, loop: str, backend: Simulator) -> Child:
    if loop != "arq":
        options = ("--capacity", str(CAPACITY))
        return await children.worker("gpu0", backend, *options, shim=ASYNCIO if loop == "asyncio" else "")
    return await children.python(
        ARQ,
        "tokenlane.worker.settings.WorkerSettings",
        TOKENLANE_REDIS_URL=children.url,
        TOKENLANE_LANE="gpu0",
        TOKENLANE_PROVIDER="openai",
        TOKENLANE_ENDPOINT=backend.url,
        TOKENLANE_CAPACITY=str(CAPACITY),
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio", "arq"])
async def test_everybody_goes_on_after_every_outage(loop: str, tmp_path: Path) -> None:
    """In each outage some answers are half read and one request waits. Every answer is whole, of one attempt, and given
    once; then every request has ended, and the worker stops in order."""
    async with _town(tmp_path, loop) as town:
        for number, outage in enumerate(OUTAGES):
            await town.backend.wait_for(lambda: sum(received.held for received in town.backend.log) == CAPACITY, 60)

            async def all_sent() -> bool:
                return bool(await raw(town.pool).xlen(f"{PREFIX}role:planner") == AT_ONCE)

            await eventually(all_sent)
            await outage(town)
            await town.answered(AT_ONCE * (number + 1))
        for deltas in town.answers():
            assert [position for position, _, _ in deltas] == list(range(len(deltas)))
            assert len({attempt for _, attempt, _ in deltas}) == 1
            assert "".join(text for _, _, text in deltas) == TEXT
        assert [received.ended for received in town.backend.log] == ["completed"] * AT_ONCE * len(OUTAGES)

        async def all_ended() -> bool:
            return not await raw(town.pool).keys(f"{PREFIX}arq:*")

        await eventually(all_ended)
        assert {*(await audit(raw(town.pool))).values()} <= {*ENDED}
