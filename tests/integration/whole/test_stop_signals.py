"""What asks a process to end: signals, a terminal that closes, an output nobody reads. No running answer is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import JsonValue
from tests.integration.farm import Child, Farm, eventually, farm

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.exit_codes import OK
from tokenlane.producer import Client
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

HELD: dict[str, JsonValue] = {"simulate": FaultScript(pieces=("one", "two"), hold_after=1).model_dump(mode="json")}
ARQ = """
import sys
sys.argv[1:] = ["tokenlane.worker.settings.WorkerSettings"]
from arq.cli import cli
cli()
"""
AS_NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
MAIN = """
from tokenlane.config.cli.root import main
main()
"""
ON_A_TERMINAL = """
import fcntl, os, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)"""


@pytest.fixture
async def site(tmp_path: Path, redis_url: str) -> AsyncIterator[Farm]:
    """Commands of the pool."""
    async with farm(tmp_path, redis_url) as opened:
        yield opened


@pytest.fixture
async def backend() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


async def serve(site: Farm, verb: str, backend: Simulator) -> Child:
    """A process that serves lane gpu0 by that verb, or has one that does."""
    if verb == "worker":
        return await site.worker("gpu0", backend)
    lane = {"TOKENLANE_LANE": "gpu0", "TOKENLANE_PROVIDER": "openai", "TOKENLANE_ENDPOINT": backend.url}
    if verb == "up":
        return await site.tokenlane("up", **lane)
    return await site.python(ARQ, TOKENLANE_REDIS_URL=site.url, **lane)


async def is_open(pool: Pool) -> bool:
    return any(lane.state.accepts_work for lane in (await pool.survey()).lanes if lane.name == "gpu0")


async def is_closed(pool: Pool) -> bool:
    return not await is_open(pool)


@pytest.mark.parametrize(
    ("verb", "number"),
    [("worker", signal.SIGHUP), ("up", signal.SIGHUP), ("up", signal.SIGTERM), ("arq", signal.SIGHUP)],
)
async def test_a_running_answer_comes_to_its_end(
    verb: str, number: signal.Signals, site: Farm, backend: Simulator, pool: Pool
) -> None:
    """Whichever signal asks the process to end, and whichever verb serves."""
    child = await serve(site, verb, backend)
    await eventually(lambda: is_open(pool), 40, child=child)
    async with Client(site.url) as client, client.chat("runs", role="planner", extra=HELD) as runs:
        await backend.held()
        child.process.send_signal(number)
        await eventually(lambda: is_closed(pool))
        backend.release()
        assert (await runs.answer()).text == "onetwo"
        assert (await child.ended()).code == OK, child.error


async def test_an_ignored_hang_up_stays_ignored(site: Farm, backend: Simulator) -> None:
    """What runs under `nohup` works on when its terminal closes."""
    child = await site.worker("gpu0", backend, shim=AS_NOHUP)
    async with Client(site.url) as client, client.chat("runs", role="planner", extra=HELD) as runs:
        await backend.held()
        child.process.send_signal(signal.SIGHUP)
        backend.release()
        assert (await runs.answer()).text == "onetwo"
        assert (await client.complete("after", role="planner")).text
    assert (await child.end()).code == OK, child.error


@pytest.mark.parametrize("verb", ["router", "simulate"])
async def test_what_serves_no_lane_ends_in_order(verb: str, site: Farm) -> None:
    """With 0, and without a traceback."""
    if verb == "router":
        child = await site.tokenlane("router")
        await child.says("\n")
    else:
        child = await site.python(MAIN, "simulate", "--port", "0")
        await child.says("\n")
    assert (await child.end(signal.SIGHUP)).code == OK, child.error


async def test_a_demo_ends_with_all_it_started(site: Farm, pool: Pool) -> None:
    """It says by its code which signal ended it, once its pool is gone."""
    async with Simulator(faults=[FaultScript(hold_after=1)]) as backend:
        asking = {"TOKENLANE_LANE": "gpu0", "TOKENLANE_PROVIDER": "openai", "TOKENLANE_ENDPOINT": backend.url}
        child = await site.python(MAIN, "demo", "--redis", site.url, **asking)
        await backend.wait_for(lambda: any(received.held for received in backend.log), 60)
        assert (await child.end(signal.SIGHUP)).code == 128 + signal.SIGHUP, child.error
        assert await is_closed(pool)


async def test_a_closed_terminal(site: Farm, backend: Simulator, pool: Pool) -> None:
    """The kernel's SIGHUP to all of the terminal's processes, and errors at each write: `up` and its worker drain."""
    ours, theirs = os.openpty()
    options = ("--redis", site.url, "--lane", "gpu0", "--provider", "openai", "--endpoint", backend.url)
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ON_A_TERMINAL + MAIN, "up", *options), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        await eventually(lambda: is_open(pool), 40)
        async with Client(site.url) as client, client.chat("runs", role="planner", extra=HELD) as runs:
            await backend.held()
            os.close(ours)
            await eventually(lambda: is_closed(pool))
            backend.release()
            assert (await runs.answer()).text == "onetwo"
            async with asyncio.timeout(30):
                assert await up.wait() == OK
    finally:
        with suppress(ProcessLookupError):
            up.kill()
        await up.wait()


@pytest.mark.kills
async def test_an_output_nobody_reads(site: Farm, backend: Simulator, pool: Pool) -> None:
    """`up` goes on, and starts a new worker for one that died, though it can say nothing of it."""

    async def workers() -> list[str]:
        return [worker.name for lane in (await take_snapshot(pool)).lanes for worker in lane.workers]

    async def replaced() -> bool:
        return bool(set(await workers()) - {first}) and await is_open(pool)

    ours, theirs = os.pipe()
    options = ("--redis", site.url, "--lane", "gpu0", "--provider", "openai", "--endpoint", backend.url)
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, "up", *options), stdin=DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        await asyncio.to_thread(_read_until, ours, b"Stop:")
        os.close(ours)
        (first,) = await workers()
        os.kill(int(first.split("-")[-2]), signal.SIGKILL)
        await eventually(replaced)
        async with Client(site.url) as client:
            assert (await client.complete("after", role="planner")).text
        up.terminate()
        async with asyncio.timeout(30):
            assert await up.wait() == OK
    finally:
        with suppress(ProcessLookupError):
            up.kill()
        await up.wait()


def _read_until(pipe: int, text: bytes) -> None:
    said = b""
    while text not in said:
        said += (part := os.read(pipe, 4096))
        assert part, said
