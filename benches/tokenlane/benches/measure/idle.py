"""Measures the CPU time of a worker, which also routes, and of its Redis server while there are no requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from .figures import Idle

Clock: TypeAlias = Callable[[], Awaitable[float]]
"""Returns the CPU seconds that a process has used."""

_SETTLE_S = 2.0
"""How long routers and workers poll as often after a request as during it."""


async def idle(worker: Clock, server: Clock, for_s: float) -> Idle:
    """Wait `for_s` without requests, and return the CPU time used meanwhile."""
    await asyncio.sleep(_SETTLE_S)
    worker_s, server_s = await worker(), await server()
    await asyncio.sleep(for_s)
    worker_s, server_s = await worker() - worker_s, await server() - server_s
    return Idle(worker=100 * worker_s / for_s, server=100 * server_s / for_s)
