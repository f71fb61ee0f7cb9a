"""Time-outs for the many short waits of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class WaitTimeout:
    """Bounds each wait of one stream, with one timer for all of them.

    `asyncio.timeout` sets and cancels a timer for each wait, which costs as much as parsing a token. Here the timer
    stays; when it fires it looks whether the wait of that moment is overdue, and if not, sets itself anew.
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
        """Await it.

        Args:
            until: by the loop's clock.

        Raises:
            TimeoutError: it was not ready by then; it has been cancelled.
        """
        task = asyncio.current_task(self._loop)  # without the loop it is looked up by a system call, in Python 3.11
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
