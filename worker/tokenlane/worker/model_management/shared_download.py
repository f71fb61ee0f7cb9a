"""One download of a model, for all who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

from tokenlane.routing.contract.results import Progress

Tell: TypeAlias = Callable[[Progress], Awaitable[None]]

_TELL_EVERY_S = 0.2


class Fetch:
    """A download under way. It goes on as long as somebody waits for it; `progress` is its newest."""

    def __init__(self, fetching: AsyncGenerator[Progress, None]) -> None:
        self.progress = Progress(step="pulling")
        self._waiting = 0
        self._task = asyncio.create_task(self._run(fetching), name="tokenlane pull")

    @property
    def over(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._task.done() or self._task.cancelling() > 0

    async def wait(self, tell: Tell) -> None:
        """Wait for its end, and tell how far it is, a few times a second at most.

        Raises:
            LlmError: as the provider raises.

        Cancellation: the download stops if nobody else waits for it.
        """
        told = None
        self._waiting += 1
        try:
            while not self._task.done():
                if self.progress is not told:
                    told = self.progress
                    await tell(told)
                await asyncio.wait({self._task}, timeout=_TELL_EVERY_S)
            if self.progress is not told:
                await tell(self.progress)
            await self._task
        finally:
            self._waiting -= 1
            if not self._waiting and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})

    async def _run(self, fetching: AsyncGenerator[Progress, None]) -> None:
        async with aclosing(fetching):
            async for self.progress in fetching:
                pass
