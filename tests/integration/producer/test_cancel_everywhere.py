"""Cancelled in any state and in any way, a request ends, its server's slot is free, and its lane has its credit."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import JsonValue
from tests.integration.farm import Child, Farm, Server, eventually, farm
from tests.integration.life import PREFIX, audit, raw

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import CANCELLED
from tokenlane.producer import ChatStream, Client, RequestCancelled
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.router import run_router
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.support.tasks import background

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORPHAN_MS = 8_000


@dataclass
class Town:
    """A lane with one worker and one slot, and a router that is not in the worker."""

    farm: Farm
    pool: Pool
    client: Client
    backend: Simulator
    worker: Child


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    directory = tmp_path_factory.mktemp("town")
    async with (
        Server(directory) as server,
        connect(server.url) as pool,
        open_hub(pool) as hub,
        Simulator() as backend,
        farm(directory, server.url) as opened,
        background() as tasks,
    ):
        # A lane that is frozen for a test is not to be given up meanwhile.
        await pool.policies.write(Policy(start_lease_ms=30_000, lease_ms=30_000))
        tasks.create_task(run_router(pool, hub, host="test"))
        worker = await opened.worker("gpu0", backend, "--capacity", "1")
        async with Client(server.url) as client:
            yield Town(opened, pool, client, backend, worker)


async def delay_retries(pool: Pool, slots: int = 1) -> None:
    """Use up the retry budget, so that the next retry on a lane with this many slots is delayed for almost 30 s."""
    seconds, _ = await raw(pool).time()
    await raw(pool).hset(f"{PREFIX}retries", "paid_at", 1000 * (int(seconds) + 10 + slots + 28))


@dataclass(frozen=True)
class State:
    """A state to cancel in: what the model server is to do, and how to know that a request is there."""

    name: str
    script: FaultScript | None = None
    sent: int = 0
    frozen: bool = False
    """Its worker is, and has not heard of it."""

    async def prepare(self, town: Town) -> asyncio.Task[object] | None:
        """Make ready for a request to get into the state and stay; what keeps the lane busy, if anything does."""
        if self.name == "waiting":
            extra: dict[str, JsonValue] = {"simulate": {"hold_after": 0}}
            blocker = asyncio.create_task(town.client.complete("block", role="planner", extra=extra))
            await town.backend.held()
            return blocker
        if self.name == "delayed":
            await delay_retries(town.pool)
        if self.frozen:
            town.worker.freeze()
        elif self.script is not None:
            town.backend.faults.append(self.script)
        return None

    async def reached(self, town: Town) -> str:
        """Wait until the newest request is in the state; its id."""
        if self.script is not None and self.script.hold_after is not None:
            await town.backend.held()
        found = ""

        async def is_there() -> bool:
            nonlocal found
            for key in await raw(town.pool).keys("{main}:request:*"):
                state = await raw(town.pool).hget(key, "state")
                found = key.decode().rpartition(":")[2] if state.decode() == self.name else found
            return bool(found)

        await eventually(is_there)
        return found

    async def check(self, town: Town, blocker: asyncio.Task[object] | None, request_id: str) -> None:
        """Assert that the request is over, was closed at the model server, and that the lane works at full capacity."""
        if self.frozen:  # an agent that only drops its stream is not heard at once
            await eventually(lambda: _is(town.pool, request_id, "cancelled"))
        town.worker.thaw()
        await eventually(lambda: _is(town.pool, request_id, "cancelled"))
        if blocker is not None:
            town.backend.release()
            await blocker
        await town.backend.wait_for(lambda: town.backend.running == 0)
        received = list(town.backend.log)
        if self.name == "running":
            assert [(one.ended, one.sent) for one in received] == [("disconnected", self.sent)]
        else:
            assert [one.ended for one in received] == {"waiting": ["completed"], "delayed": ["refused"]}.get(
                self.name, []
            )
        async with asyncio.timeout(10):
            await town.client.complete("again", role="planner")

        async def tidy() -> bool:
            return not await raw(town.pool).keys("{main}:arq:*")

        await eventually(tidy)
        assert set((await audit(raw(town.pool))).values()) <= {"cancelled", "completed"}


async def _is(pool: Pool, request_id: str, state: str) -> bool:
    return bool(await raw(pool).hget(f"{{main}}:request:{request_id}", "state") == state.encode())


STATES = (
    State("waiting"),
    State("delayed", FaultScript(status=503)),
    State("dispatched", frozen=True),
    State("running", FaultScript(hold_after=0)),
    State("running", FaultScript(hold_after=2), sent=2),
)


async def by_cancel(town: Town, state: State) -> str:
    async with town.client.chat("hi", role="planner") as stream:
        await begun(stream, state)
        await state.reached(town)
        await stream.cancel()
        with pytest.raises(RequestCancelled):
            await stream.answer()
    return stream.request_id


async def by_leaving(town: Town, state: State) -> str:
    async with town.client.chat("hi", role="planner") as stream:
        await begun(stream, state)
        await state.reached(town)
    return stream.request_id


async def by_dropping(town: Town, state: State) -> str:
    stream = town.client.chat("hi", role="planner")
    request_id = stream.request_id
    await stream.__aenter__()
    await begun(stream, state)
    await state.reached(town)
    with pytest.warns(ResourceWarning, match=request_id):
        del stream
    return request_id


async def by_cancelling_the_task(town: Town, state: State) -> str:
    stream = town.client.chat("hi", role="planner")

    async def answer() -> None:
        async with stream:
            await stream.answer()

    task = asyncio.create_task(answer())
    await state.reached(town)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return stream.request_id


async def by_sigint(town: Town, state: State) -> str:
    child = await town.farm.tokenlane("chat", "hi", "--role", "planner")
    request_id = await state.reached(town)
    ended = await child.end(signal.SIGINT)
    assert ended.code == CANCELLED, ended
    return request_id


async def begun(stream: ChatStream, state: State) -> None:
    """Read as many deltas as come in that state."""
    for _ in range(state.sent):
        await anext(stream)


@pytest.mark.parametrize(
    "state", STATES, ids=lambda state: f"{state.name}{state.sent or ''}{' unheard' * state.frozen}"
)
@pytest.mark.parametrize("cancel", [by_cancel, by_leaving, by_dropping, by_cancelling_the_task, by_sigint])
async def test_cancelled(town: Town, state: State, cancel: Callable[[Town, State], Awaitable[str]]) -> None:
    """Every way to cancel, in every state."""
    town.backend.log.clear()
    for key in await raw(town.pool).keys("{main}:request:*"):
        await raw(town.pool).delete(key)
    blocker = await state.prepare(town)
    request_id = await cancel(town, state)
    await state.check(town, blocker, request_id)


AGENT = """
import asyncio, sys
from tokenlane.producer import Client

async def main():
    async with Client(sys.argv[1]) as client, asyncio.TaskGroup() as tasks:
        for script in ({"status": 503}, {"hold_after": 2}, {"hold_after": 0}, {"hold_after": 0}):
            ask = client.complete("hi", role="planner", extra={"simulate": script})
            tasks.create_task(ask)

asyncio.run(main())
"""


@pytest.mark.kills
async def test_a_killed_agent(tmp_path: Path) -> None:
    """What an agent holds that was killed is cancelled in every state it is in, after the orphan timeout."""
    async with Server(tmp_path) as server, Simulator() as backend, farm(tmp_path, server.url) as opened:
        async with connect(server.url) as pool:
            await pool.policies.write(Policy(orphan_ms=ORPHAN_MS))
            await delay_retries(pool, slots=2)
            await opened.worker("gpu0", backend, "--capacity", "2")
            agent = await opened.python(AGENT, server.url)

            async def states() -> list[str]:
                keys = await raw(pool).keys("{main}:request:*")
                return sorted([(await raw(pool).hget(key, "state")).decode() for key in keys])

            async def everywhere() -> bool:
                return await states() == ["delayed", "running", "running", "waiting"]

            async def cancelled() -> bool:
                return await states() == ["cancelled"] * 4

            await eventually(everywhere)
            await backend.held(2)
            await agent.kill()
            await eventually(cancelled)
            await backend.wait_for(lambda: backend.running == 0)
            assert sorted(str(one.ended) for one in backend.log) == ["disconnected", "disconnected", "refused"]
            async with Client(server.url) as client:
                extra: dict[str, JsonValue] = {"simulate": {"hold_after": 0}}
                again = [asyncio.create_task(client.complete("hi", role="planner", extra=extra)) for _ in range(2)]
                await backend.held(2)
                backend.release()
                await asyncio.gather(*again)
