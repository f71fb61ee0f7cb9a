"""Model servers die and come back behind workers that live on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.integration.farm import Child, Farm, Server, eventually, farm
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.producer import Client
from tokenlane.routing.contract.answers import Answer
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.watch.parse_snapshot import take_snapshot

# What runs when its server is killed has had a start; one more, and a wait that counted would be its end.
STRICT = Policy(
    roles={"routed": RolePolicy(route=(Candidate(lane="gpu0"), Candidate(lane="gpu1")))}, max_starts=2, lease_ms=2_000
)
_SERVE = "from tokenlane.config.cli.root import main\nmain()\n"


class ModelServer:
    """A model server of its own process, at a port that it has again when it is started again."""

    def __init__(self, processes: Farm, *options: str) -> None:
        self.port = free_port()
        self.address = cast("Simulator", SimpleNamespace(url=f"http://127.0.0.1:{self.port}"))
        self._processes = processes
        self._options = options
        self._child: Child | None = None

    async def start(self, *options: str) -> None:
        """Start it; it answers when this returns."""
        command = ("simulate", "--port", str(self.port), *self._options, *options)
        self._child = child = await self._processes.python(_SERVE, *command)

        async def told() -> bool:
            assert child.running, child.error
            return "\n" in child.out

        await eventually(told)

    async def kill(self) -> None:
        """Kill it in the middle of whatever it does."""
        assert self._child is not None
        await self._child.kill()


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Farm]:
    """A pool of real processes, with a policy that forgives nothing."""
    async with Server(tmp_path) as server, connect(server.url) as pool, farm(tmp_path, server.url) as opened:
        await pool.policies.write(STRICT)
        yield opened


async def becomes(pool: Pool, lane: str, state: str) -> str:
    """Wait until the lane has that state; why it has."""

    async def is_so() -> bool:
        return any(one.state == state for one in (await take_snapshot(pool)).lanes if one.name == lane)

    await eventually(is_so)
    return next(one.why for one in (await take_snapshot(pool)).lanes if one.name == lane)


async def many(client: Client, count: int, role: str) -> list[Answer]:
    """Ask so many questions at once; all must be answered."""
    return list(await asyncio.gather(*(client.complete("q", role=role) for _ in range(count))))


async def test_another_lane_serves_what_a_dead_model_server_does_not(processes: Farm) -> None:
    """No request is lost with a model server under load, none waits out its tries, and all that come later go to the
    other lane; `status` says why. Once it is back, its lane serves again."""
    slow, role = ("--ttft-ms", "300", "--tokens", "1"), "routed"
    one, two = ModelServer(processes, *slow), ModelServer(processes, *slow)
    await asyncio.gather(one.start(), two.start())
    await asyncio.gather(processes.worker("gpu0", one.address), processes.worker("gpu1", two.address))
    async with Client(processes.url) as client, connect(processes.url) as pool:
        assert {answer.lane for answer in await many(client, 8, role)} == {"gpu0", "gpu1"}
        load = asyncio.ensure_future(many(client, 24, role))

        async def busy() -> bool:
            return any(lane.chats.running for lane in (await take_snapshot(pool)).lanes if lane.name == "gpu0")

        await eventually(busy)
        await one.kill()
        answers = await load
        assert max(answer.usage.attempts for answer in answers) <= 2
        assert await becomes(pool, "gpu0", "down")
        assert {answer.lane for answer in await many(client, 8, role)} == {"gpu1"}
        check = await (await processes.tokenlane("status", "--check")).ended()
        assert (check.code, [line.split(":")[0] for line in check.out.splitlines()]) == (FAILED, ["lane_down"])

        await one.start()
        await becomes(pool, "gpu0", "up")
        assert "gpu0" in {answer.lane for answer in await many(client, 8, role)}
        assert (await (await processes.tokenlane("status", "--check")).ended()).code == OK


async def test_what_waits_for_the_only_model_server_outlives_its_restart(processes: Farm) -> None:
    """A restart, however long, costs what waits no try; it is said why it waits, and it is served at once after."""
    server = ModelServer(processes, "--ttft-ms", "200", "--tokens", "1")
    await server.start()
    await processes.worker("gpu0", server.address)
    async with Client(processes.url) as client, connect(processes.url) as pool:
        asked = asyncio.ensure_future(many(client, 12, "free"))

        async def busy() -> bool:
            return any(lane.chats.running for lane in (await take_snapshot(pool)).lanes)

        await eventually(busy)
        await server.kill()
        await becomes(pool, "gpu0", "down")
        async with client.chat("q", role="free") as stream:

            async def explained() -> bool:
                (lane,) = (await take_snapshot(pool)).lanes  # a later look at the server may give another reason
                return f"'gpu0' is down: {lane.why.rstrip('.')}" in (stream.waiting or "")

            await eventually(explained)
            assert not asked.done()
            await server.start()
            assert [delta.text async for delta in stream if delta.text] == ["w0 "]
        answers = await asked
        assert max(answer.usage.attempts for answer in answers) <= 2


async def test_a_worker_waits_for_its_model_server(processes: Farm) -> None:
    """Started before that is there it says so, and serves once it is; what that serves after a restart is announced."""
    server = ModelServer(processes)
    worker = await processes.worker("gpu0", server.address)
    first = json.loads(worker.out)
    assert (first["event"], len(first["problems"])) == ("waiting", 1)
    async with Client(processes.url) as client, connect(processes.url) as pool:
        assert await becomes(pool, "gpu0", "down")
        asked = asyncio.ensure_future(client.complete("q", role="free"))
        await server.start("--models", "early")
        assert (await asked).model == "early"

        async def ready() -> bool:
            return [json.loads(line)["event"] for line in worker.out.splitlines()] == ["waiting", "ready"]

        await eventually(ready)
        await server.kill()
        await becomes(pool, "gpu0", "down")
        asked = asyncio.ensure_future(client.complete("q", role="free"))
        await server.start("--models", "late,later")
        assert (await asked).model == "late"
        (lane,) = (await take_snapshot(pool)).lanes
        assert (lane.state, lane.models) == ("up", ("late", "later"))
