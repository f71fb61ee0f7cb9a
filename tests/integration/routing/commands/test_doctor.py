"""`tokenlane doctor` on servers of several kinds."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration import life
from tests.integration.farm import Ended, farm
from tests.integration.servers import free_port, valkey
from tests.lanes import chats

from tokenlane.config import exit_codes as exits
from tokenlane.routing.decide.lanes.offer import Announcement, WorkerInfo
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.watch.doctor import examine
from tokenlane.routing.watch.finding import Code, Finding


async def doctor(directory: Path, url: str, *arguments: str) -> Ended:
    """Run the command to its end."""
    async with farm(directory, url) as opened:
        return await (await opened.tokenlane("doctor", *arguments)).ended()


async def findings(pool: Pool, subject: str = "") -> dict[Code, Finding]:
    """All that is found in a pool on that subject, by code."""
    return {finding.code: finding for finding in await examine(pool) if finding.subject == subject}


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[str]:
    """A server whose only user may neither configure it nor ask it about itself, as managed ones are."""
    user = ("--user", "default", "on", "nopass", "~*", "&*", "+@all", "-config", "-info")
    async with valkey(tmp_path, *user) as port:
        yield f"redis://127.0.0.1:{port}"


async def test_what_is_denied_is_unknown(guarded: str) -> None:
    """Where INFO and CONFIG are denied the checks say so, and all others are made."""
    async with connect(guarded) as pool:
        await pool.beats.sweep("host/1", revision=0)
        found = await findings(pool)
    denied = (Code.SERVER_VERSION, Code.SERVER_ROLE, Code.EVICTION, Code.MEMORY, Code.PERSISTENCE, Code.TIMEOUT)
    assert {found[code].severity for code in (*denied, Code.PUBSUB_BUFFER)} == {"unknown"}
    assert {found[code].severity for code in (Code.ROUTERS, Code.ROUND_TRIP, Code.CLOCK)} == {"ok"}


async def test_a_server_that_evicts(tmp_path: Path) -> None:
    """A cache with a limit of memory fails: exit code 1, what it means and what to do."""
    options = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru", "--timeout", "60")
    async with valkey(tmp_path, *options) as port:
        ended = await doctor(tmp_path, f"redis://127.0.0.1:{port}")
    assert (ended.code, ended.error) == (exits.FAILED, "")
    assert "fail    maxmemory_policy" in ended.out
    assert "CONFIG SET maxmemory-policy noeviction" in ended.out
    assert "warn    timeout" in ended.out


async def test_json_on_a_pool_at_work(pool: Pool, tmp_path: Path) -> None:
    """With a router and a live lane nothing fails, and JSON has every check with what it means."""
    await pool.beats.register(life.WORKER, life.LANE.lane, life.FACTS)
    await pool.beats.renew(life.WORKER, life.LANE, [], accepts_new_work=True)
    assert (await findings(pool, "lane1"))[Code.LANE].severity == "ok"
    assert (await findings(pool, life.WORKER))[Code.VERSIONS].observed.startswith("tokenlane 0.1.0, arq 0.28.0")
    ended = await doctor(tmp_path, pool.server.url, "--json")
    document = json.loads(ended.out)
    assert (document["v"], document["pool"]) == (2, "main")
    fields = {"code", "severity", "subject", "found", "means", "advice"}
    assert all(finding.keys() == fields for finding in document["findings"])
    failed = {finding["code"] for finding in document["findings"] if finding["severity"] == "fail"}
    assert (ended.code, failed) == (exits.FAILED, {Code.NO_ROUTER})


async def test_a_model_server_of_this_host_that_is_down(pool: Pool) -> None:
    """A live worker of this host whose model server's port refuses is a failure; while it listens it is none."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        host = socket.gethostname()
        lane = Announcement("gpu0", "vllm", f"http://{host}:{listening.getsockname()[1]}", ("m",), chats(1))
        await pool.beats.register("w1", "gpu0", WorkerInfo(host))
        await pool.beats.renew("w1", lane, [], accepts_new_work=True)
        endpoint = (await findings(pool, "gpu0"))[Code.ENDPOINT]
        assert (endpoint.severity, "accepts connections" in endpoint.observed) == ("ok", True)
    endpoint = (await findings(pool, "gpu0"))[Code.ENDPOINT]
    assert (endpoint.severity, "refuses" in endpoint.observed) == ("fail", True)


async def test_no_pool(tmp_path: Path) -> None:
    """Where no server answers the command ends with 2 and one line that names the place."""
    url = f"redis://127.0.0.1:{free_port()}"
    ended = await doctor(tmp_path, url)
    assert (ended.code, ended.out, url in ended.error) == (exits.USAGE, "", True)


async def test_a_slow_command(tmp_path: Path) -> None:
    """A command that blocked the server is a warning that names the command."""
    async with valkey(tmp_path, "--enable-debug-command", "yes") as port, connect(f"redis://127.0.0.1:{port}") as pool:
        assert (await findings(pool))[Code.SLOW_COMMANDS].severity == "ok"
        await life.raw(pool).execute_command("DEBUG", "SLEEP", "0.06")
        found = (await findings(pool))[Code.SLOW_COMMANDS]
    assert (found.severity, "DEBUG" in found.observed) == ("warn", True)
