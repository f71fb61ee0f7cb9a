"""What a process remembers of the pool, so that it need not ask for each request, nor when the server is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Generic, TypeVar

from tokenlane.routing.contract.errors import PoolUnavailable

T = TypeVar("T")

FRESH_S = 3.0
"""How old what is remembered may be while the pool's server answers, in seconds."""
KEPT_S = 600.0
"""How old it may be while the server does not answer, in seconds."""
_ASKED_AGAIN_S = 1.0


class Remembered(Generic[T]):
    """The result of a function that reads from the pool. All who ask at the same time share one call of it.

    Args:
        read: reads the value. Raises `PoolUnavailable` if the server does not answer.
        clock: the time in seconds, from any beginning.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._known: tuple[float, T] | None = None  # when it was asked for, and the value
        self._failed_at = -inf
        self._lock = asyncio.Lock()

    async def get(self, within_s: float = FRESH_S) -> T:
        """The value, at most `within_s` old; while the server does not answer, at most `KEPT_S`.

        Raises:
            PoolUnavailable: the server does not answer, and the value is older, or was never read.
        """
        if (known := self._at_most(within_s)) is not None:
            return known[1]
        async with self._lock:
            if (known := self._at_most(within_s)) is not None:  # another caller has read it meanwhile
                return known[1]
            kept = self._at_most(KEPT_S)
            if kept is not None and self._clock() - self._failed_at < _ASKED_AGAIN_S:
                return kept[1]
            return await self._read_again()

    def _at_most(self, age_s: float) -> tuple[float, T] | None:
        known = self._known
        return known if known is not None and self._clock() - known[0] < age_s else None

    async def _read_again(self) -> T:
        asked_at = self._clock()
        try:
            value = await self._read()
        except PoolUnavailable:
            self._failed_at = self._clock()
            if (kept := self._at_most(KEPT_S)) is None:
                raise
            return kept[1]
        self._known = asked_at, value
        return value
