"""Waiting for what happens elsewhere, with an end. Imports nothing of ours: an agent's tests run without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    """Wait until the condition holds.

    Raises:
        TimeoutError: it did not in time.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)
