"""Repeats a call to the pool while its server does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.server.errors import is_unreachable

from .timings import Timings

T = TypeVar("T")


async def retry_while_away(call: Callable[[], Awaitable[T]], timings: Timings, left: asyncio.Event | None = None) -> T:
    """Repeat the call while the server does not answer or refuses temporarily, for at most `server_patience_s`.

    Args:
        left: set when nobody waits for the result any more.

    Raises:
        PoolUnavailable: the last attempt failed, or the failure is permanent.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + timings.server_patience_s
    left = left or asyncio.Event()
    while True:
        try:
            return await call()
        except PoolUnavailable as error:
            may_pass = error.retryable or is_unreachable(error)
            if not may_pass or left.is_set() or clock() >= until:
                raise
        with suppress(TimeoutError):
            async with asyncio.timeout(timings.retry_every_s):
                await left.wait()
