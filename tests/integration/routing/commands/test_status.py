"""`tokenlane status` as people and monitors run it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from tests.integration import life
from tests.integration.farm import farm
from tests.integration.life import LANE, PREFIX, WORKER, raw
from tests.integration.servers import free_port
from tests.repository import ROOT
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import QueueFull
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.routing.watch.snapshot import SCHEMA_VERSION, Snapshot

_BEAT_S = 0.3
DOCUMENTATION = (ROOT / "docs/status.md").read_text()


async def status(url: str, *arguments: str) -> tuple[int, str, str]:
    """Run the command; exit code, output and errors."""
    ended = await run_in_thread("status", "--redis", url, *arguments)
    return ended.code, ended.out, ended.error


@pytest.fixture
async def at_work(pool: Pool) -> AsyncIterator[Pool]:
    """A pool with a router, a lane that runs one request, and one that waits; router and worker beat all the time, so
    that they live however long a command takes."""
    running = await life.running(pool)
    await pool.beats.register(WORKER, LANE.lane, life.FACTS)
    await life.submit(pool, life.envelope(priority="high"))
    beaten = asyncio.Event()

    async def beating() -> None:
        while True:
            await pool.beats.sweep("host/1", revision=0)
            await life.beat(pool, WORKER, LANE, life.hold(running))
            beaten.set()
            await asyncio.sleep(_BEAT_S)

    async with background() as tasks:
        tasks.create_task(beating())
        await beaten.wait()
        yield pool


async def test_a_pool_at_work(at_work: Pool, tmp_path: Path) -> None:
    """Roles, lanes and workers stand in aligned tables, and nothing but text is written."""
    async with farm(tmp_path, at_work.server.url) as opened:
        ended = await (await opened.tokenlane("status")).ended()
    out = ended.out
    assert (ended.code, ended.error) == (exits.OK, "")
    assert "\x1b" not in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows[LANE.lane][:5] == [LANE.lane, "up", "1", "0", str(LANE.offer.limit_of("chat"))]
    assert rows[WORKER][:4] == [WORKER, LANE.lane, "up", "1"]
    assert life.FACTS.host in rows[WORKER]
    roles = dict(re.findall(r"^planner +(\w+ +\d+) .* (\S+)$", out, re.MULTILINE))
    counts = {words.split()[0]: (int(words.split()[1]), last == "-") for words, last in roles.items()}
    assert counts == {"high": (1, False), "normal": (0, True)}  # how many wait, and whether for nothing
    assert re.findall(r"\d+", " ".join(rows["work"])) == ["1", "1"]  # waiting and running


async def test_json(at_work: Pool) -> None:
    """The document is the snapshot's tree, with its version, what is wrong, and no policy text."""
    code, out, _ = await status(at_work.server.url, "--json")
    document = json.loads(out)
    assert (code, document["v"], document["pool"], document["problems"]) == (exits.OK, SCHEMA_VERSION, "main", [])
    assert document["lanes"][0]["workers"][0]["versions"] == life.FACTS.versions
    assert document.keys() == {field.name for field in fields(Snapshot)} - UNWRITTEN | {"primary", "problems"}


async def test_lanes_that_left_long_ago_take_one_line(pool: Pool) -> None:
    """Who was stopped in order stays in the table for a minute, as it may come back; then its name is enough."""
    await pool.beats.renew(WORKER, LANE, [], accepts_new_work=False)
    await raw(pool).delete(f"{PREFIX}workers")
    for ago_ms, in_table in ((1_000, True), (300_000, False)):
        seen = (await pool.survey()).now_ms - ago_ms
        await raw(pool).hset(f"{PREFIX}lane:{LANE.lane}:state", "seen", seen)
        await raw(pool).zadd(f"{PREFIX}lanes", {LANE.lane: seen})
        _, out, _ = await status(pool.server.url)
        assert bool(re.search(rf"^{LANE.lane} ", out, re.MULTILINE)) == in_table
        assert bool(re.search(rf"^left +{LANE.lane} ", out, re.MULTILINE)) != in_table


async def test_what_is_not_understood_is_named(at_work: Pool) -> None:
    """Work of a kind that only a newer version knows stops neither people's view of the pool nor a monitor's."""
    await raw(at_work).sadd(f"{PREFIX}queues", "planner:paint:normal:64::")
    code, out, error = await status(at_work.server.url)
    assert (code, error) == (exits.OK, "")
    assert re.search(r"^unknown .*paint", out, re.MULTILINE)
    assert re.search(r"^planner +high +1 ", out, re.MULTILINE)
    code, out, _ = await status(at_work.server.url, "--check")
    assert code == exits.OK, out


UNWRITTEN = {"policy", "fallback", "views", "sentinels", "cause"}
WRITTEN_AS = {"needs": set(Needs.model_fields), "observed": {"found"}}


def documented(kind: type, found: dict[str, set[str]]) -> dict[str, set[str]]:
    """The dataclasses of a tree with their fields."""
    found[kind.__name__] = {field.name for field in fields(kind)}
    for name, hint in get_type_hints(kind).items():
        for part in () if name in UNWRITTEN else (hint, *get_args(hint)):
            if is_dataclass(part) and isinstance(part, type) and part.__name__ not in found:
                documented(part, found)
    return found


@pytest.mark.parametrize(("kind", "names"), [*documented(Snapshot, {}).items(), *documented(Finding, {}).items()])
def test_every_field_is_documented(kind: str, names: set[str]) -> None:
    """docs/status.md has a line for each field that `--json` writes."""
    written = {name for field in names - UNWRITTEN for name in WRITTEN_AS.get(field, {field})}
    missing = {name for name in written if f"`{name}`" not in DOCUMENTATION}
    assert not missing, (kind, missing)
    assert f'"v": {SCHEMA_VERSION}' in DOCUMENTATION


def test_every_code_is_documented() -> None:
    """docs/status.md says of each code what is looked at, or wrong."""
    assert [code for code in Code if f"`{code}`" not in DOCUMENTATION] == []


async def test_what_a_queue_asks_for_is_written_once(pool: Pool) -> None:
    """A queue's document has the documented fields in place of the value that holds them."""
    await life.submit(pool, life.envelope(model="m1"))
    _, out, _ = await status(pool.server.url, "--json")
    (queue,) = json.loads(out)["queues"]
    assert queue["model"] == "m1"
    assert "m1" in queue["waits_for"]
    assert pool.keys.pool in queue["why"]  # which has no lane at all
    assert "needs" not in queue


async def test_an_empty_pool_is_clear(pool: Pool) -> None:
    """Of a pool nobody uses is told just that; a monitor is told that it is not well."""
    code, out, _ = await status(pool.server.url)
    assert (code, [line for line in out.splitlines() if line.startswith("pool_unused:")] != []) == (exits.OK, True)
    code, out, _ = await status(pool.server.url, "--check")
    assert (code, [line.split(":")[0] for line in out.splitlines()]) == (
        exits.FAILED,
        ["pool_unused", "no_router", "no_lane"],
    )


async def test_an_unreachable_pool_is_clear() -> None:
    """Where no server answers the command ends with 2 and one line that names the place."""
    url = f"redis://127.0.0.1:{free_port()}"
    for more in ((), ("--json",), ("--check",)):
        code, out, error = await status(url, *more)
        assert code == exits.USAGE
        assert url in error
        assert len(error.splitlines()) == 1
        if more == ("--json",):
            assert json.loads(out)["error"]["code"] == "pool_unavailable"
        else:
            assert out == ""


async def test_check(at_work: Pool) -> None:
    """A monitor is told in one line that all is well, or what is not, by exit code and by text."""

    async def checked(*arguments: str) -> tuple[int, str]:
        code, out, _ = await status(at_work.server.url, "--check", *arguments)
        return code, out

    code, out = await checked()
    assert (code, out.split(":")[0], len(out.splitlines())) == (exits.OK, "ok", 1)
    code, out = await checked("--max-wait", "0")
    assert (code, out.split(":")[0], len(out.splitlines())) == (exits.FAILED, "waits_long", 1)
    code, out = await checked("--json", "--max-wait", "0")
    assert (code, [it["code"] for it in json.loads(out)["problems"]]) == (exits.FAILED, ["waits_long"])


async def test_check_sees_a_full_server(at_work: Pool) -> None:
    """A server without free memory refuses requests."""
    await raw(at_work).config_set("maxmemory", 1)
    try:
        code, out, _ = await status(at_work.server.url, "--check", "--json")
    finally:
        await raw(at_work).config_set("maxmemory", 0)
    problems = {it["code"]: it["severity"] for it in json.loads(out)["problems"]}
    assert (code, problems["memory"]) == (exits.FAILED, "fail")


async def test_check_sees_refused_requests(at_work: Pool) -> None:
    """A role at its limit refuses requests; the finding stays for a minute."""
    await at_work.policies.write(Policy(depth=2))
    with pytest.raises(QueueFull):
        await life.submit(at_work)
    code, out, _ = await status(at_work.server.url, "--check", "--json")
    document = json.loads(out)
    assert (code, [it["code"] for it in document["problems"]]) == (exits.FAILED, ["requests_refused"])
    assert [role["rates"]["refused"] > 0 for role in document["roles"]] == [False, True]


async def test_a_pool_with_a_misspelt_name(pool: Pool) -> None:
    """A pool that nobody uses may be another pool, misspelt: pools with a router on the same server are named."""
    async with open_hub(pool, 5) as hub:
        await hub.subscribe(pool.keys.doorbell, lambda _: None)
        code, out, _ = await status(pool.server.url, "--check", "--json", "--pool", "maim")
    (problem,) = [it for it in json.loads(out)["problems"] if it["code"] == "pool_unused"]
    assert (code, problem["severity"], problem["subject"]) == (exits.FAILED, "fail", "maim")
    assert pool.keys.pool in problem["found"]
