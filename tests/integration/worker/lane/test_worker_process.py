from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.integration import life
from tests.integration.life import raw
from tests.waiting import until
from tests.workshop import Asker, FakeProvider, ask, serving

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import CANCELLED, OK, USAGE
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.hub import Hub, open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background

LEASE_MS = 900
TEXT = "".join(f"w{number} " for number in range(16))
ARQ = (sys.executable, "-m", "arq", "tokenlane.worker.settings.WorkerSettings")


@pytest.fixture
async def hub(pool: Pool) -> AsyncIterator[Hub]:
    """The agents' hub; their client beats."""

    async def beat() -> None:
        while True:
            await pool.beats.check(life.CLIENT)
            await asyncio.sleep(1)

    async with open_hub(pool) as hub, background() as tasks:
        tasks.create_task(beat())
        yield hub


@asynccontextmanager
async def process(*command: str, environment: dict[str, str] | None = None) -> AsyncIterator[Process]:
    """A child process; killed at the end if it still runs."""
    child = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **(environment or {})}
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


def worker_command(redis_url: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "tokenlane.config", "worker", "--redis", redis_url, "--lane", "lane1", *more]


@asynccontextmanager
async def worker(redis_url: str, simulator: Simulator, *more: str) -> AsyncIterator[Process]:
    """A worker process with the simulator as its model server, ready to work."""
    options = ["--provider", "llamacpp", "--endpoint", simulator.url, "--json", *more]
    async with process(*worker_command(redis_url, *options)) as child:
        assert child.stdout is not None
        async with asyncio.timeout(30):
            told = json.loads(await child.stdout.readline())
        wanted = {"event": "ready", "pool": "main", "lane": "lane1", "models": ["sim"], "capacity": 4}
        assert wanted.items() <= told.items()
        yield child


def arq_environment(redis_url: str, simulator: Simulator) -> dict[str, str]:
    """What makes ARQ's own command serve the lane."""
    return {
        "TOKENLANE_REDIS_URL": redis_url,
        "TOKENLANE_LANE": "lane1",
        "TOKENLANE_PROVIDER": "llamacpp",
        "TOKENLANE_ENDPOINT": simulator.url,
    }


async def exit_code(child: Process) -> int:
    async with asyncio.timeout(30):
        return await child.wait()


async def started_by(pool: Pool, asker: Asker) -> int:
    """The process that runs the request."""
    (status,) = (await pool.beats.check(life.CLIENT, [asker.id])).statuses
    return int(status.worker.split("-")[-2])


async def test_a_worker_process_serves_and_drains(redis_url: str, pool: Pool, hub: Hub) -> None:
    """SIGTERM lets a running answer end, then the process ends with 0 and leaves nothing of the request."""
    async with Simulator(faults=[FaultScript(hold_after=2)]) as simulator, worker(redis_url, simulator) as child:
        asker = await ask(pool, hub)
        await simulator.held()
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while (await pool.survey()).lanes[0].state.accepts_work:
                await asyncio.sleep(0.01)
        simulator.release()
        await asker.completed(TEXT)
        assert await exit_code(child) == OK
        await life.audit(raw(pool))


async def test_a_short_drain_hands_over(redis_url: str, pool: Pool, hub: Hub) -> None:
    """What does not end in its time is closed at once, and the lane's next worker continues the answer."""
    async with Simulator(faults=[FaultScript(hold_after=2)]) as simulator:
        async with worker(redis_url, simulator, "--drain", "0") as child:
            asker = await ask(pool, hub)
            await simulator.held()
            await until(lambda: len(asker.text) == 2)
            child.send_signal(signal.SIGTERM)
            assert await exit_code(child) == OK
            assert await life.state_of(pool, asker.id) == "waiting"
            await simulator.wait_for(lambda: simulator.log[-1].ended == "disconnected")
        async with worker(redis_url, simulator):
            completed = await asker.completed(TEXT)
        assert (completed.usage.attempts, asker.resumes) == (2, 1)
        assert completed.usage.completion_tokens in (16, 17), "the seam may count a trimmed space as one more"
        await life.audit(raw(pool))


@pytest.mark.parametrize("delivered", [0, 2])
async def test_a_second_ctrl_c_drains_no_longer(delivered: int, redis_url: str, pool: Pool, hub: Hub) -> None:
    """The first Ctrl-C drains, the second gives back at once what still runs, whether its answer has begun or not."""
    faults = [FaultScript(hold_after=delivered)]
    async with Simulator(faults=faults) as simulator, worker(redis_url, simulator) as child:
        asker = await ask(pool, hub)
        await simulator.held()
        await until(lambda: len(asker.text) == delivered)
        child.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            while (await pool.survey()).lanes[0].state.accepts_work:
                await asyncio.sleep(0.01)
        child.send_signal(signal.SIGINT)
        assert await exit_code(child) == CANCELLED
        assert await life.state_of(pool, asker.id) == "waiting"


async def test_a_supervised_worker_ends_with_its_supervisor(redis_url: str) -> None:
    """When its standard input ends, the worker drains and ends."""
    async with Simulator() as simulator, worker(redis_url, simulator, "--supervised") as child:
        assert child.stdin is not None
        child.stdin.close()
        assert await exit_code(child) == OK


@pytest.mark.parametrize("delivered", [0, 2])
@pytest.mark.kills
async def test_a_killed_workers_request(delivered: int, redis_url: str, pool: Pool, hub: Hub) -> None:
    """A request whose worker is killed is run by another, which continues what was delivered."""
    await pool.policies.write(Policy(lease_ms=LEASE_MS))
    async with (
        Simulator(faults=[FaultScript(hold_after=delivered)]) as simulator,
        worker(redis_url, simulator) as one,
        worker(redis_url, simulator) as two,
    ):
        asker = await ask(pool, hub)
        await simulator.held()
        await until(lambda: len(asker.text) == delivered)
        runs_it = await started_by(pool, asker)
        assert runs_it in (one.pid, two.pid)
        os.kill(runs_it, signal.SIGKILL)
        completed = await asker.completed(TEXT)
        assert completed.usage.attempts == 2
        assert completed.usage.completion_tokens in (16, 17), "the seam may count a trimmed space as one more"
        assert simulator.log[-1].prefill == "w0 w1"[: 3 * delivered]
        assert asker.resumes >= 1
        await life.audit(raw(pool))


async def test_arqs_own_command_runs_a_lane(redis_url: str, pool: Pool, hub: Hub) -> None:
    """`arq tokenlane.worker.settings.WorkerSettings` serves the lane the environment describes, and ends on SIGTERM."""
    async with Simulator() as simulator, process(*ARQ, environment=arq_environment(redis_url, simulator)) as child:
        for _ in range(2):
            asker = await ask(pool, hub)
            await asker.completed(TEXT, timeout_s=30)
        child.send_signal(signal.SIGTERM)
        code = await exit_code(child)
        _, said = await child.communicate()
        assert code == 0, said.decode()
    await life.audit(raw(pool))


async def test_arqs_own_command_drains(redis_url: str, pool: Pool, hub: Hub) -> None:
    """Told to stop, it lets the running answer end, while new work goes to the lane's other worker."""
    async with (
        Simulator(faults=[FaultScript(hold_after=2)]) as simulator,
        process(*ARQ, environment=arq_environment(redis_url, simulator)) as child,
    ):
        held = await ask(pool, hub)
        await simulator.held()
        async with worker(redis_url, simulator):
            child.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while await raw(pool).zcard(f"{pool.keys.lane_queue('lane1')}:workers") > 1:
                    await asyncio.sleep(0.01)
            for _ in range(8):
                other = await ask(pool, hub)
                await other.completed("".join(f"w{number} " for number in range(16)))
                assert await started_by(pool, other) != child.pid
            assert child.returncode is None
            simulator.release()
            await held.completed("".join(f"w{number} " for number in range(16)))
            code = await exit_code(child)
            _, said = await child.communicate()
            assert code == 0, said.decode()
            assert b"Traceback" not in said


async def test_arqs_own_command_tells_what_is_wrong(redis_url: str) -> None:
    """A wrong setting, no server and a taken lane are one message and code 2."""
    async with Simulator() as simulator, serving(redis_url, FakeProvider(endpoint="http://gpu7")):
        right = arq_environment(redis_url, simulator)
        assert "TOKENLANE_CAPACITY" in await refused(*ARQ, environment={**right, "TOKENLANE_CAPACITY": "many"})
        nowhere = {**right, "TOKENLANE_REDIS_URL": "redis://127.0.0.1:1"}
        assert "tokenlane up" in await refused(*ARQ, environment=nowhere)
        assert "http://gpu7" in await refused(*ARQ, environment=right)


async def refused(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run a command that must be refused; what it says."""
    async with process(*command, environment=environment) as child, asyncio.timeout(30):
        _, said = await child.communicate()
    assert child.returncode == USAGE, said.decode()
    assert b"Traceback" not in said
    return said.decode()


async def test_wrong_configuration_is_told_in_one_line(redis_url: str) -> None:
    """No pool, a taken lane and an unknown provider end with code 2 and say what to do."""
    nowhere = worker_command("redis://127.0.0.1:1", "--provider", "llamacpp", "--endpoint", "http://127.0.0.1:1")
    assert "tokenlane up" in await refused(*nowhere)
    assert "llamacpp" in await refused(*worker_command(redis_url, "--provider", "nonesuch"))
    async with Simulator() as simulator, serving(redis_url, FakeProvider(endpoint="http://gpu7")):
        taken = worker_command(redis_url, "--provider", "llamacpp", "--endpoint", simulator.url)
        said = await refused(*taken)
    assert "http://gpu7" in said
    assert "--lane" in said
