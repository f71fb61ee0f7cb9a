"""How many lines of batches a gateway asks at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tokenlane.routing.decide.lanes.offer import LaneView

MOST_AT_ONCE = 64
_SHARE = 0.75
"""The part of the lanes' slots that lines may fill: the others stay free for requests that somebody waits for."""


class Room:
    """Lets as many lines in at once as the pool's lanes have slots to spare."""

    def __init__(self) -> None:
        self._limit = 1
        self._inside = 0
        self._waiting: list[asyncio.Event] = []

    def fit(self, lanes: Sequence[LaneView]) -> None:
        """Follow the lanes' limits."""
        slots = sum(lane.offer.limit_of("chat") for lane in lanes if lane.state.accepts_work)
        self._limit = min(MOST_AT_ONCE, max(1, int(slots * _SHARE)))
        self._wake()

    async def enter(self) -> None:
        """Wait for a place. Whoever gets it must call `leave`."""
        while self._inside >= self._limit:
            free = asyncio.Event()
            self._waiting.append(free)
            try:
                await free.wait()
            finally:
                self._waiting.remove(free)
        self._inside += 1

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1
        self._wake()

    def _wake(self) -> None:
        for free in self._waiting[: max(0, self._limit - self._inside)]:
            free.set()
