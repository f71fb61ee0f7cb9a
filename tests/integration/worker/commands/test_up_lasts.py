"""`tokenlane up` that is killed and started again, and one that other machines use; without a real model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pydantic import JsonValue
from redis.asyncio import Redis
from tests.integration.farm import eventually
from tests.integration.servers import free_port
from tests.live.commands import Command, left_running, running, surroundings
from tests.processes import is_gone

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.producer import Client

HELD: dict[str, JsonValue] = {"simulate": FaultScript(pieces=("one", "two"), hold_after=1).model_dump(mode="json")}
READY = "Stop:  Ctrl-C"


@pytest.fixture
def home() -> Iterator[Path]:
    """A data directory with a short path, for the socket."""
    with TemporaryDirectory(dir="/tmp", prefix="tl-") as folder:
        yield Path(folder)


@pytest.fixture
async def backend() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


def up(backend: Simulator, *options: str) -> list[str]:
    """`up` with a simulated model server."""
    return ["up", "--provider", "openai", "--endpoint", backend.url, "--capacity", "1", *options]


async def pid_of(home: Path) -> int:
    """The process id of the server, as it says itself."""
    async with Redis.from_url(f"unix://{home}/redis/redis.sock") as redis:
        return int((await redis.info("server"))["process_id"])


@pytest.mark.kills
async def test_what_waits_outlives_up(home: Path, backend: Simulator) -> None:
    """A request that waits when all of `up` is killed, or its server alone, is answered when there is one again."""

    async def gone() -> bool:
        return not left_running(home)

    async def ended() -> bool:
        return is_gone(server)

    with running(*up(backend), home=home) as first:
        await asyncio.to_thread(first.says, READY)
        async with Client(f"unix://{home}/redis/redis.sock") as client:
            async with client.chat("runs", role="planner", extra=HELD) as runs:
                await backend.held()
                async with client.chat("waits", role="planner") as waits:
                    assert (await anext(runs)).text == "one"
                    server = await pid_of(home)
                    first.process.kill()
                    await eventually(ended)
                    with running(*up(backend), home=home) as second:
                        await asyncio.to_thread(second.says, READY)
                        backend.release()
                        # Its worker was draining, and ends it in the pool that is there again.
                        assert (await runs.answer()).text == "onetwo"
                        assert (await waits.answer()).text
                        os.kill(await pid_of(home), signal.SIGKILL)
                        await asyncio.to_thread(second.says, "restarting it")
                        assert (await client.complete("after", role="planner")).text
                        second.process.send_signal(signal.SIGINT)
                        assert await asyncio.to_thread(second.ends) == 0, second.output
    await eventually(gone)


async def test_a_home_with_an_odd_name(backend: Simulator) -> None:
    """Blanks and signs that mean something in a URL may be in the data directory's path, as on macOS they are."""
    with TemporaryDirectory(dir="/tmp", prefix="tl ?a%20b ") as folder, running(*up(backend), home=Path(folder)) as one:
        await asyncio.to_thread(one.says, READY)
        with running("chat", "hello", home=Path(folder)) as asking:
            assert await asyncio.to_thread(asking.ends) == 0, asking.output
        with running(*up(backend), home=Path(folder)) as second:
            assert await asyncio.to_thread(second.ends) == 2, second.output
        one.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(one.ends) == 0, one.output


def shell(line: str, exports: str, home: Path) -> Command:
    """A line of what `up` printed, in the shell of another machine."""
    folder = str(Path(sys.executable).parent)
    environment = surroundings(home, PATH=f"{folder}:{os.environ['PATH']}")
    return Command(["sh", "-c", f"{exports}\nexec {line}"], environment)


async def test_who_is_invited_gets_in(home: Path, tmp_path: Path, backend: Simulator) -> None:
    """`invite` prints what `up --listen` keeps out of its output: in another shell and home its lines start a worker
    and ask; without the key both are refused."""
    elsewhere = tmp_path / "elsewhere"
    with running(*up(backend, "--listen", f"127.0.0.1:{free_port()}"), home=home) as server:
        await asyncio.to_thread(server.says, READY)
        with running("invite", "--json", home=home) as inviting:
            assert await asyncio.to_thread(inviting.ends) == 0, inviting.output
        invited = json.loads(inviting.output)
        exports, chat = invited["exports"], invited["agent"]
        password = invited["redis"].partition("://:")[2].partition("@")[0]
        assert "tokenlane invite" in server.output
        assert not [secret for secret in (password, invited["keys"]) if secret in server.output]
        worker = "tokenlane worker --lane gpu1 --provider openai --endpoint"
        serving = shell(f"{worker} {backend.url}", exports, elsewhere)
        try:
            await asyncio.to_thread(serving.says, "gpu1")
            asking = shell(chat, exports, elsewhere)
            assert await asyncio.to_thread(asking.ends) == 0, asking.output
            keyless = exports.partition(" TOKENLANE_POOL_KEY")[0]
            for line in (chat, f"{worker} {backend.url}"):
                refused = shell(line, keyless, elsewhere)
                assert await asyncio.to_thread(refused.ends) == 2, refused.output
                assert "TOKENLANE_POOL_KEY" in refused.output
        finally:
            serving.kill()
        server.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(server.ends) == 0, server.output
    with running("invite", home=home) as nobody:
        assert await asyncio.to_thread(nobody.ends) == 2, nobody.output
