"""A cheap timeout for the many short waits of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class WaitTimeout:
    """Limits each wait of one stream with a single timer.

    `asyncio.timeout` sets and cancels a timer for each wait, which costs as much as parsing a token. The timer of this
    class stays set. When it fires before the current wait is overdue, it sets itself again.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[object] | None = None
        self._until = 0.0
        self._expired = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def wait(self, awaitable: Awaitable[T], until: float) -> T:
        """Await `awaitable`, and cancel it at a deadline.

        Args:
            until: the deadline, by the loop's clock.

        Raises:
            TimeoutError: the deadline passed.
        """
        task = asyncio.current_task(self._loop)  # Python 3.11 looks up a missing loop with a system call
        assert task is not None
        cancelling = task.cancelling()
        self._waiting, self._until = task, until
        if self._timer is None or self._timer.when() > until:
            self._arm()
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._expired and task.cancelling() <= cancelling + 1:
                raise TimeoutError from None
            raise
        finally:
            self._waiting = None
            if self._expired:
                self._expired = False
                task.uncancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._until, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._waiting is None:
            return
        if self._loop.time() < self._until:
            self._arm()
        else:
            self._expired = True
            self._waiting.cancel()
