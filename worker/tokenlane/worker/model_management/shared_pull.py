"""A pull of a model that several commands and requests may wait for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeAlias

from tokenlane.routing.contract.results import Progress

ReportProgress: TypeAlias = Callable[[Progress], Awaitable[None]]

_REPORT_EVERY_S = 0.2


class SharedPull:
    """A running pull, which continues while at least one caller waits for it. `progress`: the latest progress."""

    def __init__(self, steps: AsyncGenerator[Progress, None]) -> None:
        self.progress = Progress(step="pulling")
        self._waiting = 0
        self._task = asyncio.create_task(self._run(steps), name="tokenlane pull")

    @property
    def is_ending(self) -> bool:
        """Whether the pull has ended, or is being cancelled."""
        return self._task.done() or self._task.cancelling() > 0

    async def wait(self, report: ReportProgress) -> None:
        """Wait for the pull to end, and report its progress at most a few times a second.

        Raises:
            LlmError: the provider raised it.

        Cancellation: the pull is cancelled if no other caller waits for it.
        """
        reported = None
        self._waiting += 1
        try:
            while True:
                done = self._task.done()
                if self.progress is not reported:
                    reported = self.progress
                    await report(reported)
                if done:
                    return await self._task
                await asyncio.wait({self._task}, timeout=_REPORT_EVERY_S)
        finally:
            self._waiting -= 1
            if not self._waiting and not self._task.done():
                self._task.cancel()
                await asyncio.wait({self._task})

    async def _run(self, steps: AsyncGenerator[Progress, None]) -> None:
        async with aclosing(steps):
            async for progress in steps:
                self.progress = progress
