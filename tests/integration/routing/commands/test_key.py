"""`tokenlane key`, as a person runs it: against a pool that works meanwhile."""

from __future__ import annotations

import asyncio
import json
import shlex
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import JsonValue
from tests.documents import commands_of
from tests.integration.farm import Ended, Farm, farm
from tests.repository import ROOT
from tests.verbs import run_in_thread

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing, PoolKey, read_key_file, write_key_file
from tokenlane.producer import Client, PoolKeyMismatch
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import connect
from tokenlane.routing.watch.parse_snapshot import take_snapshot

WORDS = ("one", "two")
SAYS_NO_KEYS = """
import tokenlane.routing.store.scripts as scripts
source = scripts._source
scripts._source = lambda name, database: source(name, database).replace("'keys', ARGV[5],", "")
"""
"""An older worker."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "redis", keeps=True) as server:
        yield server


@pytest.fixture
async def opened(server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[Farm]:
    async with farm(tmp_path, server.url) as opened:
        yield opened


def home_of(opened: Farm) -> str:
    return str(Path(opened.url.removeprefix("unix://").partition("?")[0]).parent / "home")


async def key(opened: Farm, *arguments: str, **variables: str) -> Ended:
    """Run the command to its end."""
    return await run_in_thread("key", *arguments, "--redis", opened.url, TOKENLANE_HOME=home_of(opened), **variables)


def documented(heading: str) -> list[list[str]]:
    """The commands below a heading of docs/security.md."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [shlex.split(command.removeprefix("tokenlane "), comments=True) for command in commands_of(section)]


async def test_the_commands_of_the_docs_that_show_and_make_keys(
    server: EmbeddedServer, opened: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prints the pool's key, the other writes a key file."""
    show, new = documented("Where keys come from")
    monkeypatch.chdir(tmp_path)
    (old,) = read_key_file(server.key_file).keys
    assert (await key(opened, *show[1:])).out.strip() == old.reveal()
    assert (await run_in_thread(*new)).code == 0
    assert len(read_key_file(tmp_path / new[-1]).keys) == 1


async def test_the_session_of_the_docs(server: EmbeddedServer, opened: Farm) -> None:
    """Step by step, beside a worker that reads the key file and one that was given the key: no lane ever closes."""
    (old,) = read_key_file(server.key_file).keys
    prepare, show, check, rotate, drop = documented("Changing the key")

    async def run(command: list[str]) -> Ended:
        return await run_in_thread(*command, "--redis", opened.url, TOKENLANE_HOME=home_of(opened))

    async with Simulator() as backend, connect(server.url) as pool, Client(server.url) as client:
        routes = {lane: RolePolicy(route=(Candidate(lane=lane),)) for lane in ("gpu0", "gpu1")}
        await pool.policies.write(Policy(lease_ms=900, roles=routes))
        await opened.worker("gpu0", backend)
        remote = await opened.worker("gpu1", backend, TOKENLANE_POOL_KEY=old.reveal())

        async def both_answer() -> None:
            for lane in ("gpu0", "gpu1"):
                assert (await client.complete("hello", role=lane)).lane == lane

        assert (await run(prepare)).code == 0
        ring = read_key_file(server.key_file)
        (new,) = ring.prepared
        assert (await pool.key_agreement.key_ids(), ring.keys) == ((old.id,), (old,))
        await both_answer()
        refused = await run(rotate)
        assert (refused.code, remote.name in refused.error, new.id in refused.error) == (1, True, True), refused
        checked = await run([*check, "--json"])
        assert checked.code == 1
        assert "key_missing" in checked.out
        await both_answer()
        shown = (await run(show)).out.strip()
        assert (await remote.end()).code == 0
        await opened.worker("gpu1", backend, TOKENLANE_POOL_KEY=shown)
        assert (await run(check)).code == 0
        for step in (rotate, drop):
            ended = await run(step)
            assert ended.code == 0, ended
            await both_answer()
            sealed = (await run([part for part in show if part != "--reveal"])).out.splitlines()[-1]
            assert f"sealed with {new.id}" in sealed
            assert (f"{old.id} still opens" in sealed) == (step == rotate)
        assert await pool.key_agreement.key_ids() == (new.id,)
        assert read_key_file(server.key_file).all_ids == (new.id,)


async def test_a_prepared_key_outlives_a_restart(server: EmbeddedServer) -> None:
    """`up` that starts anew announces it as prepared: it does not seal before it is rotated to."""
    async with connect(server.url) as pool:
        new = PoolKey.new()
        ring = write_key_file(server.key_file, read_key_file(server.key_file).keys, [new])
        await pool.key_agreement.announce_again(read_key_file(server.key_file))
        seen = await take_snapshot(pool)
        assert (seen.keys, seen.prepared) == (ring.ids, (new.id,))


async def test_a_worker_that_does_not_say_its_keys_is_not_taken_to_have_them(
    server: EmbeddedServer, opened: Farm
) -> None:
    """One of an older version is named before the switch; `--now` switches all the same."""
    async with Simulator() as backend, connect(server.url) as pool:
        await pool.policies.write(Policy(lease_ms=900))
        worker = await opened.worker("gpu0", backend, shim=SAYS_NO_KEYS)
        refused = await key(opened, "rotate")
        assert (refused.code, worker.name in refused.error) == (1, True), refused
        new = read_key_file(server.key_file).prepared[0]
        assert (await key(opened, "rotate", "--now")).code == 0
        assert (await pool.key_agreement.key_ids())[0] == new.id
        async with Client(server.url) as client:
            assert (await client.complete("hello", role="planner")).text  # its file had the key


async def test_keys_change_while_requests_wait(server: EmbeddedServer, opened: Farm) -> None:
    """A request sealed before the change, and one after, are both answered by the worker that ran all the time."""
    old = read_key_file(server.key_file).keys[0]
    options: dict[str, JsonValue] = {"simulate": FaultScript(pieces=WORDS, hold_after=1).model_dump(mode="json")}
    async with Simulator() as backend, Client(server.url) as client, connect(server.url) as pool:
        await pool.policies.write(Policy(lease_ms=900))
        await opened.worker("gpu0", backend, "--capacity", "1")
        async with client.chat("first", role="planner", extra=options) as first:
            await backend.held()
            async with client.chat("second", role="planner") as second:
                assert (await key(opened, "rotate")).code == 0
                newest = read_key_file(server.key_file).keys[0]
                assert newest != old
                assert await pool.key_agreement.key_ids() == (newest.id, old.id)
                async with client.chat("third", role="planner") as third, Client(server.url) as other:
                    async with other.chat("fourth", role="planner") as fourth:
                        assert await pool.key_agreement.sealed_with([newest.id]) == 1
                        assert await pool.key_agreement.sealed_with([old.id]) == 3
                        refused = await key(opened, "rotate", "--drop-old")
                        assert (refused.code, refused.error.count("3 requests")) == (1, 1), refused
                        backend.release()
                        answers = [await stream.answer() for stream in (first, second, third, fourth)]
                        assert all(answer.text for answer in answers)
        dropped = await key(opened, "rotate", "--drop-old")
        assert (dropped.code, old.id in dropped.out) == (0, True), dropped
        assert read_key_file(server.key_file).keys == (newest,)
        assert (await client.complete("fifth", role="planner")).text
        assert await pool.key_agreement.key_ids() == (newest.id,)
        with pytest.raises(PoolKeyMismatch):
            async with Client(server.url, key=old.reveal()):
                pass


async def test_a_worker_without_the_new_key_takes_no_work(server: EmbeddedServer, opened: Farm) -> None:
    """What such a worker cannot open goes back to the queue, and another lane, which can, answers it."""
    old = read_key_file(server.key_file).keys[0]
    async with Simulator() as backend, connect(server.url) as pool:
        lacking = await opened.worker("gpu0", backend, TOKENLANE_POOL_KEY=old.reveal())
        assert (await key(opened, "rotate", "--now")).code == 0
        async with Client(server.url) as client, client.chat("hello", role="planner") as stream:
            while "accepts no new work" not in lacking.error:
                await pool.survey()
            await opened.worker("gpu1", backend)
            answer = await stream.answer()
        assert answer.lane == "gpu1"


@pytest.mark.kills
async def test_what_is_sealed_with_a_dropped_key_fails(server: EmbeddedServer, opened: Farm) -> None:
    """A worker that has the pool's key ends such requests, waiting or given back, and goes on with all others."""
    options: dict[str, JsonValue] = {"simulate": FaultScript(pieces=WORDS, hold_after=0).model_dump(mode="json")}
    async with Simulator() as backend, Client(server.url) as client, connect(server.url) as pool:
        await pool.policies.write(Policy(lease_ms=900))
        first = await opened.worker("gpu0", backend, "--capacity", "1")
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(client.chat("old", role="planner", extra=options))]
            await backend.held()
            for _ in range(3):
                streams.append(await stack.enter_async_context(client.chat("old", role="planner")))
            assert (await key(opened, "rotate")).code == 0
            dropped = await key(opened, "rotate", "--drop-old", "--now")
            assert dropped.code == 0, dropped
            await first.kill()
            second = await opened.worker("gpu0", backend, "--capacity", "1")
            assert (await client.complete("new", role="planner")).text
            for stream in streams:
                with pytest.raises(PoolKeyMismatch) as failed:
                    async with asyncio.timeout(20):
                        await stream.answer()
                assert not failed.value.retryable, "no worker may have that key"
        assert (await client.complete("new", role="planner")).lane == "gpu0"
        assert "accepts no new work" not in second.error
        assert [lane.state for lane in (await take_snapshot(pool)).lanes] == ["up"]


async def test_a_key_that_is_to_go_opens_what_waits(server: EmbeddedServer, opened: Farm) -> None:
    """Until its requests have ended, a worker without it does not start, and one with it answers them."""
    async with Simulator() as backend, Client(server.url) as client, connect(server.url) as pool:
        await pool.policies.write(Policy(patience_ms=60_000))
        async with client.chat("old", role="planner") as stream:
            assert (await key(opened, "rotate")).code == 0
            newest, old = read_key_file(server.key_file).keys
            assert (await key(opened, "rotate", "--drop-old")).code == 1
            serving = ("worker", "--lane", "gpu0", "--provider", "openai", "--endpoint", backend.url)
            lacking = await (await opened.tokenlane(*serving, TOKENLANE_POOL_KEY=newest.reveal())).ended()
            assert (lacking.code, old.id in lacking.error) == (2, True), lacking
            await opened.worker("gpu0", backend)
            assert (await stream.answer()).text
        assert (await key(opened, "rotate", "--drop-old")).code == 0
        await opened.worker("gpu1", backend, TOKENLANE_POOL_KEY=newest.reveal())


async def test_up_keeps_a_key_retiring(server: EmbeddedServer, opened: Farm) -> None:
    """A key that seals no more does not seal again because `up` is started anew before it could go."""
    async with connect(server.url) as pool:
        old = read_key_file(server.key_file)
        await pool.key_agreement.announce(old)
        assert (await key(opened, "rotate")).code == 0
        ring = read_key_file(server.key_file)
        await pool.key_agreement.announce(KeyRing(ring.keys[:1]), old.ids)
        await pool.key_agreement.announce_again(ring)  # as `up` does
        assert await pool.key_agreement.key_ids() == ring.ids[:1]
        await pool.key_agreement.check(ring)
        with pytest.raises(PoolKeyMismatch):
            await pool.key_agreement.check(KeyRing(ring.keys[:1]))


async def test_keys_are_shown(server: EmbeddedServer, opened: Farm) -> None:
    """Ids are shown; the keys themselves only if asked for, alone, to be pasted; the environment's come first."""
    ring, other = read_key_file(server.key_file), PoolKey.new()
    shown = await key(opened, "show")
    assert shown.code == 0, shown
    here, sealed = shown.out.splitlines()
    assert (ring.ids[0] in here, str(server.key_file) in here, ring.ids[0] in sealed) == (True, True, False)
    assert ring.reveal() not in shown.out
    assert (await key(opened, "show", "--reveal")).out == f"{ring.reveal()}\n"
    document = json.loads((await key(opened, "show", "--json")).out)
    assert (document["ids"], document["pool"], document["not_asked"]) == (list(ring.ids), "main", None)
    assert ring.reveal() not in str(document)
    async with Client(server.url):
        shown = await key(opened, "show", TOKENLANE_POOL_KEY=other.reveal())
    here, sealed = shown.out.splitlines()
    assert (other.id in here, "TOKENLANE_POOL_KEY" in here, ring.ids[0] in sealed) == (True, True, True)


async def test_a_new_key(server: EmbeddedServer, opened: Farm, tmp_path: Path) -> None:
    """A new key is in a private file, never over another, and seals a pool that nobody uses."""
    file = tmp_path / "new.key"
    made = await key(opened, "new", "--file", str(file), "--announce")
    assert made.code == 0, made
    (key_id,) = read_key_file(file).ids
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key_id in made.out
    async with connect(server.url, keys=KeyRing(read_key_file(file).keys), unseals=True) as pool:
        assert pool.keychain.key_id == key_id
    again = await key(opened, "new", "--file", str(file))
    assert (again.code, "not overwritten" in again.error) == (2, True), again
    second = await key(opened, "new", "--file", str(tmp_path / "second.key"), "--announce")
    assert (second.code, key_id in second.error) == (2, True), second


async def test_a_key_that_the_pool_refuses_leaves_no_file(server: EmbeddedServer, opened: Farm, tmp_path: Path) -> None:
    """Whether the pool has another key, or is in use without one; and the same command works once it may."""
    file = tmp_path / "new.key"
    announcing = ("new", "--file", str(file), "--announce")
    async with connect(server.url) as pool:
        await pool.beats.check("client1")
        refused = await key(opened, *announcing)
        assert (refused.code, refused.out, "in use without a key" in refused.error) == (2, "", True), refused
        assert not file.exists()
        await pool.beats.leave("client1")
        made = await key(opened, *announcing)
        assert made.code == 0, made
        assert await pool.key_agreement.key_ids() == read_key_file(file).ids


async def test_who_has_no_key_is_told_which_it_takes(server: EmbeddedServer, opened: Farm) -> None:
    """On a machine without the key the pool's is named, and how to give it; in a pool without one, how to make one."""
    async with Client(server.url):
        (key_id,) = read_key_file(server.key_file).ids
    server.key_file.unlink()
    for arguments in (["show"], ["show", "--reveal"]):
        none = await key(opened, *arguments)
        assert (none.code, none.out) == (2, "")
        assert f"sealed with {key_id}" in none.error
        assert all(way in none.error for way in ("TOKENLANE_POOL_KEY", "key_file", "tokenlane key show --reveal"))


async def test_keys_that_cannot_change(server: EmbeddedServer, opened: Farm) -> None:
    """Keys of the environment have no file to be written to; a single key is not dropped; no key is told."""
    given = await key(opened, "rotate", TOKENLANE_POOL_KEY=PoolKey.new().reveal())
    assert (given.code, "TOKENLANE_POOL_KEY" in given.error) == (2, True), given
    single = await key(opened, "rotate", "--drop-old")
    assert (single.code, read_key_file(server.key_file).ids[0] in single.error) == (2, True), single
    server.key_file.unlink()
    none = await key(opened, "show")
    assert (none.code, "tokenlane key new" in none.error) == (2, True), none
