"""Agents that are killed or frozen in the middle of an answer, in processes of their own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from tests.integration.farm import Child, Server, eventually, farm
from tests.integration.life import PREFIX, audit, raw, sweep, vanish

from tokenlane.benches.simulator import Simulator
from tokenlane.producer import Client, Duplicate, RequestCancelled
from tokenlane.routing.store.pool import connect

PIECES = [f"{number} " for number in range(60)]

ASKS = """
import asyncio, json, sys
from tokenlane.producer import Client

async def main():
    url, options = sys.argv[1], json.loads(sys.argv[2])
    async with Client(url, agent="agent1") as client:
        async with client.chat("hi", role="planner", **options) as stream:
            print(stream.request_id, flush=True)
            async for delta in stream:
                print(json.dumps([delta.position, delta.text]), flush=True)

asyncio.run(main())
"""
ATTACHES = """
import asyncio, json, sys
from tokenlane.producer import Client

async def main():
    url, request_id, after = sys.argv[1:]
    async with Client(url, agent="agent1") as client:
        async with client.attach(request_id, after=int(after)) as stream:
            async for delta in stream:
                print(json.dumps([delta.position, delta.text]), flush=True)

asyncio.run(main())
"""


def asked(**script: object) -> str:
    """What an agent asks, and what the model server is to do then."""
    once = script.pop("idempotency_key", None)
    return json.dumps({"extra": {"simulate": {"pieces": PIECES, **script}}, "idempotency_key": once})


def deltas(child: Child) -> list[tuple[int, str]]:
    """The positions and texts an agent has written."""
    lines = child.out[: child.out.rfind("\n") + 1].splitlines()
    return [(found[0], found[1]) for line in lines if line.startswith("[") and (found := json.loads(line))]


async def has_read(child: Child, count: int) -> None:
    """Wait until an agent has so many deltas."""

    async def read() -> bool:
        assert child.running, child.error
        return len(deltas(child)) >= count

    await eventually(read)


@pytest.mark.parametrize("kills", [1, 3])
async def test_an_answer_outlives_its_agents(tmp_path: Path, kills: int) -> None:
    """Agents are killed in the middle of an answer, one after another, and the next attaches behind what it read last:
    together they read every token once, the model server generates it once, and nothing is cancelled."""
    async with Server(tmp_path) as server, Simulator() as backend, farm(tmp_path, server.url) as opened:
        await opened.worker("gpu0", backend)
        agent = await opened.python(ASKS, server.url, asked(hold_after=50, itl_ms=40))
        await has_read(agent, 3)
        request_id = agent.out.splitlines()[0]
        got: list[tuple[int, str]] = []
        for _ in range(kills):
            await agent.kill()
            got += deltas(agent)
            agent = await opened.python(ATTACHES, server.url, request_id, str(got[-1][0]))
            await has_read(agent, min(3, 50 - len(got)))
        await backend.held()
        backend.release()
        ended = await agent.ended()
        assert ended.code == 0, ended
        got += deltas(agent)
        assert [position for position, _ in got] == list(range(len(got)))
        assert "".join(text for _, text in got) == "".join(PIECES)
        assert [received.ended for received in backend.log] == ["completed"]
        async with connect(server.url) as pool:
            assert await audit(raw(pool)) == {request_id: "completed"}


async def test_who_attaches_keeps_it_from_being_an_orphan(tmp_path: Path) -> None:
    """When the orphan timeout of killed agents is over, the request that another has attached to runs on, and the one
    that nobody has is cancelled."""
    async with Server(tmp_path) as server, Simulator() as backend, farm(tmp_path, server.url) as opened:
        async with connect(server.url) as pool, Client(server.url) as client:
            await opened.worker("gpu0", backend, "--capacity", "2")
            agents = [await opened.python(ASKS, server.url, asked(hold_after=2)) for _ in range(2)]
            await asyncio.gather(*(has_read(agent, 2) for agent in agents))
            kept, orphan = (agent.out.splitlines()[0] for agent in agents)
            clients = [(await raw(pool).hget(f"{PREFIX}request:{one}", "client")).decode() for one in (kept, orphan)]
            await asyncio.gather(*(agent.kill() for agent in agents))
            async with client.attach(kept, after=1) as stream:
                for gone in clients:
                    await vanish(pool, gone)
                await sweep(pool)
                async with client.attach(orphan) as left:
                    with pytest.raises(RequestCancelled):
                        await left.answer()
                backend.release()
                assert (await stream.answer()).text == "".join(PIECES[2:])
        await backend.wait_for(lambda: backend.running == 0)
        assert sorted(str(received.ended) for received in backend.log) == ["completed", "disconnected"]


async def test_one_key_in_many_processes(tmp_path: Path) -> None:
    """Processes that ask with one idempotency key at the same time get one answer each, of one run; a process that is
    killed and started again with its key goes on with it; after the end the key is a duplicate."""
    async with Server(tmp_path) as server, Simulator() as backend, farm(tmp_path, server.url) as opened:
        await opened.worker("gpu0", backend)
        question = asked(hold_after=50, idempotency_key="order 7")
        agents = [await opened.python(ASKS, server.url, question) for _ in range(3)]
        await asyncio.gather(*(has_read(agent, 50) for agent in agents))
        (request_id,) = {agent.out.splitlines()[0] for agent in agents}
        for agent in agents:
            await agent.kill()
        again = await opened.python(ASKS, server.url, question)
        await has_read(again, 50)
        backend.release()
        ended = await again.ended()
        assert ended.code == 0, ended
        assert ended.out.splitlines()[0] == request_id
        assert "".join(text for _, text in deltas(again)) == "".join(PIECES)
        assert [received.ended for received in backend.log] == ["completed"]
        async with Client(server.url, agent="agent1") as client:
            with pytest.raises(Duplicate, match=request_id):
                await client.complete("hi", role="planner", idempotency_key="order 7")


async def test_a_frozen_agent_slows_nobody(tmp_path: Path) -> None:
    """While it reads nothing, its own answer is generated to the end, and other agents of the lane get theirs. Once it
    goes on, it reads the rest without a gap or a repeat."""
    async with Server(tmp_path) as server, Simulator() as backend, farm(tmp_path, server.url) as opened:
        await opened.worker("gpu0", backend, "--capacity", "2")
        agent = await opened.python(ASKS, server.url, asked(hold_after=5))
        await has_read(agent, 5)
        agent.freeze()
        backend.release()
        async with Client(server.url) as client:
            answers = await asyncio.gather(*(client.complete("hi", role="planner") for _ in range(10)))
            assert len({answer.text for answer in answers}) == 1
        await backend.wait_for(lambda: backend.log[0].ended == "completed")
        agent.thaw()
        ended = await agent.ended()
        assert ended.code == 0, ended
        got = deltas(agent)
        assert "".join(text for _, text in got) == "".join(PIECES)
        assert [position for position, _ in got] == list(range(len(got)))
        assert [received.ended for received in backend.log] == ["completed"] * 11
