"""Turns: limit how many Redis commands a process has in flight, in the order of their urgency; and command time-outs.

A command that waits for its turn has not been sent, and its time-out has not started. Beats go first, so that a busy
process is not taken for dead; commands that submit new work go last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType

_STEPS = 5


class Urgency(IntEnum):
    """The urgency of a command; the lowest number goes first."""

    BEAT = 0
    USUAL = 1
    NEW_WORK = 2


class PrioritySemaphore:
    """Lets at most `most` tasks have a turn at once.

    Guarantee: if a task is cancelled while it waits or has just got its turn, the next task gets that turn.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: tuple[deque[tuple[float, asyncio.Future[None]]], ...] = tuple(deque() for _ in Urgency)

    def try_acquire(self) -> bool:
        """Take a turn if one is free; return whether it was."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def acquire(self, urgency: Urgency = Urgency.USUAL) -> None:
        """Wait for a turn. The caller must call `release` afterwards.

        Raises:
            Exception: the reason passed to `give_up`.
        """
        if self.try_acquire():
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[urgency].append((loop.time(), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()
            raise

    def release(self) -> None:
        """End a turn, and let the next waiting task have it."""
        for waiting in self._waiting:
            while waiting:
                _, turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1

    def fail_waiters(self, since: float, reason: Callable[[], Exception]) -> None:
        """Fail all tasks that began to wait before `since`, the time at which a command without a reply was sent."""
        for waiting in self._waiting:
            while waiting and waiting[0][0] < since:
                _, turn = waiting.popleft()
                if not turn.done():
                    turn.set_exception(reason())


class StepwiseTimeout:  # used as `asyncio.timeout` is
    """A time-out in five steps. Each step begins once the event loop has handled the end of the step before. So if the
    loop itself was blocked, that uses up one step only, and a reply that arrived in the meantime is still read.

    `since`: when the time-out began, on the loop's clock.

    Raises:
        TimeoutError: all steps are over.
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
        await self._scope.__aexit__(kind, error, trace)  # raises TimeoutError if the time-out caused the cancellation

    def _tick(self) -> None:
        self._left -= 1
        loop = asyncio.get_running_loop()
        if self._left:
            self._timer = loop.call_later(self._step_s, self._tick)
        else:
            self._scope.reschedule(loop.time())
