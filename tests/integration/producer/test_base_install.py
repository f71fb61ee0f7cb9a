"""An agent in the base install alone, with the newest redis-py, against a worker in this one."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
import pytest_asyncio
import redis
from tests.integration.farm import Server, eventually, farm
from tests.integration.life import audit, raw
from tests.repository import ROOT

from tokenlane.benches.simulator import Simulator
from tokenlane.routing.store.pool import connect

_NO_INDEX = re.compile(
    r"No matching distribution found|Could not fetch URL|Max retries exceeded|timed out|Name or service"
)

AGENT = """
import asyncio, importlib.util, sys
import redis
from pydantic import BaseModel
from tokenlane.producer import Client, PoolUnavailable, RequestCancelled, SchemaMismatch, sync
from tokenlane.producer.testing import MockPool

TEXT = "".join(f"w{number} " for number in range(16))
LATER = {"simulate": {"hold_after": 2}}

class City(BaseModel):
    name: str

async def main():
    async with Client(agent="agent1") as client:
        assert (await client.complete("hi", role="planner")).text == TEXT
        try:
            await client.complete("hi", role="planner", response_format=City)
        except SchemaMismatch as error:
            assert error.text == TEXT
        async with client.chat("hi", role="planner", extra=LATER, idempotency_key="k") as stream:
            first = await anext(stream)
            async with Client(agent="agent1") as other:
                async with other.attach(stream.request_id, after=first.position) as joined:
                    second = await anext(joined)
                    assert (second.position, second.text) == (1, "w1 ")
                    async with client.chat("hi", role="planner", idempotency_key="k") as third:
                        assert third.request_id == stream.request_id
                        assert (await anext(third)).text == "w0 "
                        await stream.cancel()
                        for one in (stream, joined, third):
                            try:
                                await one.answer()
                            except RequestCancelled:
                                print("cancelled")
    async with MockPool(lambda request: "mocked") as pool, pool.client() as client:
        assert (await client.complete("hi", role="planner")).text == "mocked"

asyncio.run(main())

with sync.Client() as client:
    with client.chat("hi", role="planner") as stream:
        assert "".join(delta.text for delta in stream) == TEXT == stream.text
    with client.chat("hi", role="planner", extra=LATER) as stream:
        assert next(stream).text == "w0 "

extras = ("arq", "httpx", "typer", "rich")
print(redis.__version__, *(name for name in extras if importlib.util.find_spec(name)))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a virtual environment in which tokenlane is installed without extras, nothing pinned."""
    directory = tmp_path_factory.mktemp("base")
    made = await asyncio.create_subprocess_exec(sys.executable, "-m", "venv", "--without-pip", str(directory))
    assert await made.wait() == 0
    python = str(directory / "bin" / "python")
    # Built here, where hatchling is: pip would install that anew, in an environment of its own.
    await _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(ROOT))
    (wheel,) = directory.glob("*.whl")
    await _pip("--python", python, "install", "--no-compile", str(wheel))
    return python


async def _pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    pip = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pip", *quiet, *arguments), stderr=asyncio.subprocess.PIPE
    )
    _, said = await pip.communicate()
    complaint = said.decode(errors="replace").strip()
    if pip.returncode != 0 and _NO_INDEX.search(complaint):
        pytest.skip(f"pip reaches no package index: {complaint.splitlines()[-1]}")
    assert pip.returncode == 0, complaint


@pytest.mark.deployed
@pytest.mark.timeout(180)
async def test_an_agent_in_the_base_install(base: str, tmp_path: Path) -> None:
    """Stream, answer, model, attach, idempotency key, cancel, mock pool and the synchronous client work, and nothing is
    left running; no extra is there, and redis-py is newer than here."""
    async with Server(tmp_path) as server, Simulator() as backend, farm(tmp_path, server.url) as opened:
        await opened.worker("gpu0", backend)
        agent = await opened.python(AGENT, python=base, TOKENLANE_REDIS_URL=server.url, PYTHONWARNINGS="error")
        ended = await agent.ended()
        assert (ended.code, ended.error) == (0, ""), ended
        *cancelled, installed = ended.out.splitlines()
        assert cancelled == ["cancelled"] * 3
        version, *extras = installed.split()
        assert extras == []
        assert int(version.partition(".")[0]) > int(redis.__version__.partition(".")[0]) == 5
        await backend.wait_for(lambda: backend.running == 0)
        assert [received.ended for received in backend.log] == [
            "completed",
            "completed",
            "disconnected",
            "completed",
            "disconnected",
        ]

        async with connect(server.url) as pool:

            async def over() -> bool:
                return set((await audit(raw(pool))).values()) == {"completed", "cancelled"}

            await eventually(over)
