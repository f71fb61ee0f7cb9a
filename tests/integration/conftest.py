"""What integration tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tokenlane.routing.pool import Pool, connect


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[Pool]:
    """A pool that holds nothing."""
    async with connect(redis_url) as pool:
        yield pool
