"""Processes of the previous version and of this one in one pool: a worker of either with a router of the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from tests.integration.farm import NO_ROUTER, Child, Farm, Server, farm
from tests.repository import ROOT

from tokenlane.benches.simulator import Simulator
from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.producer import Client, RequestCancelled
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import connect

TEXT = "".join(f"w{number} " for number in range(16))
HELD: dict[str, Any] = {"simulate": {"hold_after": 4}}
KEY = PoolKey.new().reveal()


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Code that makes a process one of the previous version, which `tests/versions/record.py` recorded."""
    folder = tmp_path_factory.mktemp("previous")
    with ZipFile(ROOT / "tests" / "versions" / "previous.zip") as archive:
        archive.extractall(folder)
    model = Path("tokenlane", "worker", "embeddings", "english.bin")
    (folder / model).symlink_to(ROOT / "worker" / model)
    return f"import sys; sys.path.insert(0, {str(folder)!r})\n"


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Farm]:
    async with Server(tmp_path) as server, farm(tmp_path, server.url) as opened:
        yield opened


async def serve(opened: Farm, lane: str, backend: Simulator, version: str) -> Child:
    """A worker of this version that does not route."""
    return await opened.worker(lane, backend, provider="llamacpp", shim=version + NO_ROUTER, TOKENLANE_POOL_KEY=KEY)


@pytest.mark.timeout(90)
@pytest.mark.parametrize("older", ["worker", "router"])
@pytest.mark.kills
async def test_the_previous_version_works_with_this_one(opened: Farm, older: str, previous: str) -> None:
    """Chats and embeddings are served, a cancel ends a run, and another worker continues the answer of one that died.
    Agents of both versions are served."""
    of_worker, of_router = (previous, "") if older == "worker" else ("", previous)
    route = (Candidate(lane="gpu0"), Candidate(lane="gpu1"))
    async with (
        Simulator(api="llamacpp") as one,
        Simulator(api="llamacpp") as two,
        Client(opened.url, key=KEY) as client,
    ):
        async with connect(opened.url) as pool:
            await pool.policies.write(Policy(lease_ms=1000, patience_ms=0, roles={"r": RolePolicy(route=route)}))
        first = await serve(opened, "gpu0", one, of_worker)
        await serve(opened, "gpu1", two, of_router)
        router = await opened.tokenlane("router", shim=of_router)
        await router.says("routing")
        assert (await client.complete("hi", role="r")).text == TEXT
        assert len((await client.embed(["a", "b"], role="r")).vectors) == 2
        asked = await opened.tokenlane("chat", "hi", "--role", "r", shim=previous, TOKENLANE_POOL_KEY=KEY)
        assert (await asked.ended()).out.strip() == TEXT.strip()
        async with client.chat("held", role="r", extra=HELD) as stream:
            await one.held()
            await stream.cancel()
            with pytest.raises(RequestCancelled):
                await stream.answer()
        async with client.chat("held", role="r", extra=HELD) as stream:
            await one.held()
            await first.kill()
            await two.held()
            two.release()
            answer = await stream.answer()
        assert (answer.text, answer.lane, answer.usage.attempts) == (TEXT, "gpu1", 2)
        status = await opened.tokenlane("status", shim=previous)
        assert (await status.ended()).code == 0


async def test_processes_of_the_previous_version_run_its_code(opened: Farm, previous: str) -> None:
    """All of it, for no component comes from this repository."""
    parts = ("config.cli.root", "routing.router", "producer.client", "worker.assembly")
    code = "".join(f"import tokenlane.{part} as it; print(it.__file__)\n" for part in parts)
    ended = await (await opened.python(previous + code)).ended()
    files = ended.out.splitlines()
    assert len(files) == len(parts)
    assert [file for file in files if file.startswith(str(ROOT))] == []
