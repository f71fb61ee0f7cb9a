"""Measures tokenlane without requests: the CPU of a worker that also routes, and of its Redis server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from .figures import Idle

Clock: TypeAlias = Callable[[], Awaitable[float]]
"""Returns the CPU seconds that a process has used."""

_SETTLE_S = 2.0
"""Just after a request, routers and workers still poll as often as during it."""


async def idle(worker: Clock, server: Clock, for_s: float) -> Idle:
    """Return the CPU that is used in a time without requests."""
    await asyncio.sleep(_SETTLE_S)
    worker_s, server_s = await worker(), await server()
    await asyncio.sleep(for_s)
    worker_s, server_s = await worker() - worker_s, await server() - server_s
    return Idle(worker=100 * worker_s / for_s, server=100 * server_s / for_s)
