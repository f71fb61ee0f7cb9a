"""Limits for Redis commands: how many a process may have in flight at once, and how long each of them may take.

A command that waits for the semaphore has not been sent yet, and its time-out has not started. Beats go first, so that
the pool does not take a busy process for dead. Commands that submit new work go last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType

_STEPS = 5


class Urgency(IntEnum):
    """The urgency of a command. Commands with the lowest number are sent first."""

    BEAT = 0
    USUAL = 1
    NEW_WORK = 2


class PrioritySemaphore:
    """A semaphore that at most `limit` tasks hold at once, and that the most urgent waiting task acquires next.

    Guarantee: if a task is cancelled while it waits, or just as it acquires the semaphore, the next task acquires it.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: tuple[deque[tuple[float, asyncio.Future[None]]], ...] = tuple(deque() for _ in Urgency)

    def try_acquire(self) -> bool:
        """Acquire the semaphore if that is possible without waiting. Return whether it was."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def acquire(self, urgency: Urgency = Urgency.USUAL) -> None:
        """Wait until the semaphore is acquired. The caller must call `release` afterwards.

        Raises:
            Exception: the exception that `fail_waiters` made, if it was called in the meantime.
        """
        if self.try_acquire():
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting[urgency].append((loop.time(), waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release()
            raise

    def release(self) -> None:
        """Release the semaphore, and let the most urgent waiting task acquire it."""
        for waiting in self._waiting:
            while waiting:
                _, waiter = waiting.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    return
        self._free += 1

    def fail_waiters(self, since: float, reason: Callable[[], Exception]) -> None:
        """Fail all tasks that began to wait before `since`. Called when a command got no reply: these tasks have waited
        even longer than that command.

        Args:
            since: when that command was sent, on the event loop's clock.
            reason: makes the exception for each task.
        """
        for waiting in self._waiting:
            while waiting and waiting[0][0] < since:
                _, waiter = waiting.popleft()
                if not waiter.done():
                    waiter.set_exception(reason())


class StepwiseTimeout:
    """An async context manager like `asyncio.timeout`, which measures its time in five steps. A step starts only when
    the event loop has handled the end of the previous step. So if the loop was blocked, that costs one step at most,
    and a reply that arrived in the meantime is still read.

    `since`: when the time-out started, on the event loop's clock.

    Raises:
        TimeoutError: the time of all steps is over.
    """

    def __init__(self, seconds: float) -> None:
        self._step_s = seconds / _STEPS
        self._left = _STEPS
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self.since = asyncio.get_running_loop().time()

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        self._timer = asyncio.get_running_loop().call_later(self._step_s, self._tick)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._scope.__aexit__(kind, error, trace)  # raises TimeoutError if the time is over

    def _tick(self) -> None:
        self._left -= 1
        loop = asyncio.get_running_loop()
        if self._left:
            self._timer = loop.call_later(self._step_s, self._tick)
        else:
            self._scope.reschedule(loop.time())
