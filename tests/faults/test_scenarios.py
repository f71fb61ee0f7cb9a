"""Whatever goes wrong, the promises to agents are kept, and afterwards every slot is free."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest
from tests.faults.history import check_history
from tests.faults.scenario import converse, misfortune, settled, site

SEEDS = range(int(os.environ.get("TOKENLANE_FAULT_SEEDS", "6")))
AGENTS, REQUESTS, FAULTS = 4, 10, 4


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_scenario(seed: int, tmp_path: Path) -> None:
    """Agents ask while a seeded plan of faults unfolds; TOKENLANE_FAULT_SEEDS=N tries N plans."""
    rng = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it with the failure
    async with site(tmp_path) as town:
        agents = [
            converse(town.server.url, town.history, random.Random(rng.random()), f"agent{number}", REQUESTS)
            for number in range(AGENTS)
        ]
        talking = asyncio.gather(*agents)
        happened = await misfortune(town, rng, talking.done, faults=FAULTS, of_events=AGENTS * REQUESTS * 12)
        print(happened)  # noqa: T201  # as above
        async with asyncio.timeout(50):
            await talking
        assert check_history(town.history) == []
        await settled(town, rng)
