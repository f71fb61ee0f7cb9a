"""Waiting for something to change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Condition:
    """Notified after each change; whoever waits looks again."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """Something has changed."""
        waiting, self._waiting = self._waiting, []
        for notified in waiting:
            if not notified.done():
                notified.set_result(None)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds."""
        while not condition():
            notified = asyncio.get_running_loop().create_future()
            self._waiting.append(notified)
            await notified
