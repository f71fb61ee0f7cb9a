"""A condition variable for one event loop, with which tasks wait until a predicate is true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Condition:
    """Lets tasks wait until a predicate is true. Predicates are checked again after each `notify`."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def notify(self) -> None:
        """Make every waiting task check its predicate again."""
        waiting, self._waiting = self._waiting, []
        for notified in waiting:
            if not notified.done():
                notified.set_result(None)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` returns True."""
        while not condition():
            notified = asyncio.get_running_loop().create_future()
            self._waiting.append(notified)
            await notified
