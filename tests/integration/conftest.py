"""What integration tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.integration.stand_in import StandIn, stand_in

from tokenlane.producer import Client
from tokenlane.routing.store.pool import Pool, connect


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[Pool]:
    """A pool that holds nothing."""
    async with connect(redis_url) as pool:
        yield pool


@pytest.fixture
async def worker(pool: Pool) -> AsyncIterator[StandIn]:
    async with stand_in(pool) as worker:
        yield worker


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url, agent="agent1") as client:
        yield client
