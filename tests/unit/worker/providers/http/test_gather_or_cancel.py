"""Several questions at once: their answers in order, or the first error as itself."""

from __future__ import annotations

import asyncio

import pytest

from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.worker.providers.http.gather_or_cancel import gather_or_cancel


async def after(turns: int, answer: int) -> int:
    for _ in range(turns):
        await asyncio.sleep(0)
    return answer


async def test_answers_come_in_the_order_of_the_questions() -> None:
    """Whichever ends first."""
    assert await gather_or_cancel(after(3, 1), after(1, 2), after(2, 3)) == [1, 2, 3]
    assert await gather_or_cancel() == []


async def test_the_first_failure_stops_the_others() -> None:
    """It is raised as itself, without a group around it, and nothing goes on behind it."""
    cancelled = asyncio.Event()

    async def endless() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return 0

    async def failing() -> int:
        raise ProviderDown("gone")

    with pytest.raises(ProviderDown, match="gone"):
        await gather_or_cancel(endless(), failing())
    assert cancelled.is_set()
