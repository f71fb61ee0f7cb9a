"""Responses in the background outlive gateways, workers, routers and the Redis server, and nobody stores a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.faults.gateways import TEXT, Fault, Reader, Town, draw_faults, town

_RESPONSES = 3
_SEEDS_OF_CI = 6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each seed: a few, unless `--seeds` asks for others."""
    if "seed" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--seeds")
        first, _, last = (f"0-{_SEEDS_OF_CI - 1}" if asked == "0-99" else asked).partition("-")
        metafunc.parametrize("seed", range(int(first), int(last or first) + 1))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    """The town that the tests share."""
    async with town(tmp_path_factory.mktemp("gateways")) as opened:
        yield opened


async def run(opened: Town, faults: list[Fault]) -> list[Reader]:
    """Begin responses, have each read through both gateways, carry out the faults, and wait for the ends."""
    first = [Reader(opened.urls, place) for place in range(_RESPONSES)]
    second = [Reader(opened.urls, place + 1) for place in range(_RESPONSES)]
    async with asyncio.TaskGroup() as tasks:
        for reader in first:
            tasks.create_task(reader.ask())
        await asyncio.gather(*(reader.begun.wait() for reader in first))
        for reader, other in zip(first, second, strict=True):
            tasks.create_task(other.follow(reader.named))
        for fault in faults:
            tasks.create_task(opened.carry_out(fault))
        during = tasks.create_task(readable_until_over(opened, [*first, *second]))
    assert during.result() == []
    return [*first, *second]


async def readable_until_over(opened: Town, readers: list[Reader]) -> list[str]:
    """Where a word of the answers was readable while they ran."""
    while not all(reader.endings for reader in readers):
        await asyncio.sleep(0.5)
    return await opened.readable()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(180)
async def test_kills(seed: int, standing: Town) -> None:
    """Whatever is killed, a client that goes to the other gateway gets each event once, and one terminal event. Only if
    a gateway and a worker die together may a response fail."""
    faults = draw_faults(seed)
    readers = await run(standing, faults)
    assert [problem for reader in readers for problem in reader.problems()] == [], faults
    failed = [reader.error for reader in readers if reader.error]
    print(f"seed {seed}: {[fault.kind for fault in faults]}, {len(failed)} of {len(readers)} failed {failed}")  # noqa: T201  # for runs by hand
    if not {"gateway", "worker"} <= {fault.kind for fault in faults}:
        assert [reader.text for reader in readers] == [TEXT] * len(readers), faults
        assert failed == [], faults
