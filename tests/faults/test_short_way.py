"""Lone requests, which `submit` starts by itself, while their only worker is not itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.faults.history import check_history
from tests.faults.scenario import Site, ask, site
from tests.waiting import until

from tokenlane.producer import Client
from tokenlane.routing.decide.policy import Policy

PIECES = tuple(f"{number} " for number in range(20))


async def make_short(town: Site, client: Client) -> None:
    """The way of what comes now is short, and leases lapse as in a pool that has been swept for long."""
    await town.server.ask("HSET", "{main}:swept", "hold", "0")
    for _ in range(2):
        assert await ask(client, town.history, "planner", ("a ",)) == "completed"
    await until(lambda: town.told == 1)


@pytest.mark.parametrize("after", ["acceptance", "deltas"])
async def test_a_worker_that_stops_for_a_while(after: str, tmp_path: Path) -> None:
    """Frozen before or in an answer for longer than a start lease, it goes on with it, once."""
    async with site(tmp_path, Policy(), ("gpu0",)) as town, Client(town.server.url) as client:
        await make_short(town, client)
        (worker,) = town.workers
        if after == "acceptance":
            worker.freeze()
        answer = asyncio.create_task(ask(client, town.history, "planner", PIECES, itl_ms=20))
        await until(lambda: town.told == 2)
        if after == "deltas":
            before = len(town.history)
            await until(lambda: len(town.history) > before + 4)
            worker.freeze()
        await asyncio.sleep(3)
        worker.thaw()
        assert await answer == "completed"
        assert check_history(town.history) == []
        assert len(town.backends["gpu0"].log) == 3


async def test_what_comes_when_the_only_worker_is_dead(tmp_path: Path) -> None:
    """It is not given to the dead one, so the next one has it at once."""
    async with site(tmp_path, Policy(), ("gpu0",)) as town, Client(town.server.url) as client:
        await make_short(town, client)
        (worker,) = town.workers
        del town.workers[worker]
        await worker.kill()
        await asyncio.sleep(0.6)  # longer than a router of a worker that lives is silent
        answer = asyncio.create_task(ask(client, town.history, "planner", PIECES))
        await town.open("gpu0")
        async with asyncio.timeout(Policy().start_lease_ms / 1000):
            assert await answer == "completed"
        assert town.told == 1
        assert check_history(town.history) == []
