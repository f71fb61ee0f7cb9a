"""Processes whose idle connections to Redis are all reset at once: a worker on uvloop, and agents on both loops."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tests.integration.farm import Child, Server, eventually, farm
from tests.integration.resetting import resetting

from tokenlane.benches.simulator import Simulator

TEXT = "".join(f"w{number} " for number in range(16))

# Asks at once, after a line on its standard input, and after the next.
AGENT = """
import asyncio, sys
import redis
from tokenlane.producer import Client

async def main():
    async with Client(sys.argv[2], agent="agent1") as client:
        for _ in range(3):
            answer = await asyncio.wait_for(client.complete("hi", role="planner"), 30)
            print(answer.text, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        assert client.internal_errors == 0

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


async def has_answers(child: Child, count: int) -> None:
    """Wait until the agent has so many answers."""

    async def enough() -> bool:
        return len(child.out.splitlines()) >= count

    await eventually(enough, 40, child=child)


@pytest.mark.timeout(120)
async def test_all_idle_connections_are_reset(tmp_path: Path) -> None:
    """A worker and its agents go on as if nothing had been, whichever loop and redis-py they have.

    TOKENLANE_TEST_AGENT: the interpreter of the agents, if it is to be another one.
    """
    python = os.environ.get("TOKENLANE_TEST_AGENT", sys.executable)
    async with Server(tmp_path) as server, resetting(server.url) as proxy, Simulator() as backend:
        async with farm(tmp_path, proxy.url) as opened:
            worker = await opened.worker("gpu0", backend)
            urls = {"asyncio": proxy.url, "uvloop": f"{proxy.url}?protocol=3"}
            agents = [await opened.python(AGENT, loop, url, python=python) for loop, url in urls.items()]
            for asked in (1, 2, 3):
                for agent in agents:
                    await has_answers(agent, asked)
                proxy.reset()
                for agent in agents:
                    assert agent.process.stdin is not None
                    agent.process.stdin.write(b"\n")
            for agent in agents:
                ended = await agent.ended()
                assert (ended.code, ended.out.splitlines()) == (0, [TEXT.rstrip("\n")] * 3), ended
            assert worker.running
            assert (await worker.end()).code == 0
