"""A primary is killed while agents read answers, and the Sentinels make its replica the new one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from tests.faults.history import Accepted, Event, Got, check_history
from tests.faults.scenario import POLICY, ask
from tests.integration.farm import ASYNCIO, eventually, farm
from tests.integration.life import ENDED, audit, raw
from tests.integration.sentinels import Watched, watched
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.producer import Client
from tokenlane.routing.store.pool import connect

_ANSWERS: Final = 20
_ARQ: Final = "from arq.cli import cli; cli()"
_PIECES: Final = tuple(f"{number} " for number in range(40))


@dataclass
class Answers:
    """Answers that agents read, and the model server that gives them."""

    servers: Watched
    backend: Simulator
    client: Client
    history: list[Event] = field(default_factory=list)
    tasks: list[asyncio.Task[str]] = field(default_factory=list)

    async def ask(self, count: int, hold_after: int) -> None:
        """Ask for so many answers more, each of which is held after some deltas; returns when all are accepted."""
        for _ in range(count):
            asking = ask(self.client, self.history, "planner", _PIECES, hold_after=hold_after, itl_ms=20)
            self.tasks.append(asyncio.create_task(asking))
        await until(lambda: self._count(Accepted) == len(self.tasks))

    async def all_read(self, count: int) -> None:
        """Wait until agents have read so many deltas."""
        await until(lambda: self._count(Got) >= count)

    async def completed(self) -> None:
        """Assert that each answer is whole, and was generated once."""
        while not all(task.done() for task in self.tasks):
            await asyncio.wait(self.tasks, timeout=0.05)
            self.backend.release()
        assert [task.result() for task in self.tasks] == ["completed"] * len(self.tasks)
        assert check_history(self.history) == []
        assert len(self.backend.log) == len(self.tasks)
        async with connect(self.servers.url) as pool:

            async def all_ended() -> bool:
                return not await raw(pool).keys("{main}:arq:*")

            await eventually(all_ended)
            states = await audit(raw(pool))
            assert set(states.values()) <= set(ENDED), states

    def _count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.history)


@asynccontextmanager
async def answers(directory: Path, shim: str = "") -> AsyncIterator[Answers]:
    """Watched servers, and workers that find their pool by the Sentinels, for ten requests at once each. `shim`: what
    the workers do before they start."""
    async with (
        watched(directory) as servers,
        Simulator(capacity=64) as backend,
        farm(directory, servers.url) as workers,
    ):
        async with connect(servers.url) as pool:
            await pool.policies.write(POLICY)
        started = (workers.worker(lane, backend, "--capacity", "10", shim=shim) for lane in ("gpu0", "gpu1"))
        await asyncio.gather(*started)
        async with Client(servers.url) as client:
            yield Answers(servers, backend, client)


@pytest.mark.parametrize("shim", ["", ASYNCIO], ids=["uvloop", "asyncio"])
async def test_a_failover_in_the_middle_of_answers(shim: str, tmp_path: Path) -> None:
    """Of 20 answers that stream when the primary and a Sentinel are killed, all are whole and of one attempt each,
    whichever event loop the workers have."""
    async with answers(tmp_path, shim) as asked:
        await asked.ask(_ANSWERS, hold_after=10)
        await asked.backend.held(_ANSWERS)
        await asked.all_read(10 * _ANSWERS)
        await asked.servers.sentinels[0].kill()
        failover = asyncio.create_task(asked.servers.fail_over())
        asked.backend.release()
        await failover
        await asked.completed()


@pytest.mark.parametrize("running", [0, 10])
async def test_a_failover_that_loses_writes(running: int, tmp_path: Path) -> None:
    """Requests of which the new primary knows nothing are sent again, or go on, and none runs twice."""
    async with answers(tmp_path) as asked:
        await asked.ask(running, hold_after=10)
        await asked.backend.held(running)
        await asked.all_read(10 * running)
        asked.servers.replica.freeze()
        await asked.servers.primary.ask("CLIENT", "KILL", "TYPE", "replica")
        await asked.ask(_ANSWERS + 10 - running, hold_after=10)
        await asked.backend.held(_ANSWERS)
        await asked.servers.primary.kill()
        asked.servers.replica.thaw()
        kept = await asked.servers.replica.ask("KEYS", "{main}:request:*")
        assert isinstance(kept, list)
        assert len(kept) == running < len(asked.tasks)
        await asked.servers.fail_over()
        await asked.completed()


async def test_arqs_own_command_survives_a_failover(tmp_path: Path) -> None:
    """It serves its lane before and after, is healthy by ARQ's own check, and stops in order."""
    async with watched(tmp_path) as servers, Simulator() as backend, farm(tmp_path, servers.url) as commands:
        settings = "tokenlane.worker.settings.WorkerSettings"
        variables = {
            "TOKENLANE_REDIS_URL": servers.url,
            "TOKENLANE_LANE": "gpu0",
            "TOKENLANE_PROVIDER": "openai",
            "TOKENLANE_ENDPOINT": backend.url,
        }
        worker = await commands.python(_ARQ, settings, **variables)
        async with Client(servers.url) as client:
            await client.complete("hi", role="planner")
            await servers.fail_over()
            await client.complete("hi", role="planner")
            checked = await commands.python(_ARQ, settings, "--check", **variables)
            assert (await checked.ended()).code == 0
        assert (await worker.end()).code == 0
