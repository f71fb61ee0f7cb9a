"""Turns: how many commands one process has in flight at once, which of those that wait goes next, and for how long.

What waits for its turn has not been sent, and no time-out of its runs. Beats go first, so that nobody is taken for dead
behind what it asks; what brings new work goes last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType

_STEPS = 5


class Urgency(IntEnum):
    """Who goes first of those that wait: the lower number."""

    BEAT = 0
    USUAL = 1
    NEW_WORK = 2


class Turns:
    """At most `most` at once.

    Guarantee: a turn that was given to somebody who was cancelled meanwhile goes to the next.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: tuple[deque[tuple[float, asyncio.Future[None]]], ...] = tuple(deque() for _ in Urgency)

    def take_now(self) -> bool:
        """Take a turn that nobody waits for; False if there is none."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def take(self, urgency: Urgency = Urgency.USUAL) -> None:
        """Wait for a turn; `give_back` it in the end.

        Raises:
            Exception: what `give_up` was told.
        """
        if self.take_now():
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[urgency].append((loop.time(), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back()
            raise

    def give_back(self) -> None:
        """End a turn, and begin that of the next who waits."""
        for waiting in self._waiting:
            while waiting:
                _, turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1

    def give_up(self, since: float, reason: Callable[[], Exception]) -> None:
        """End the waiting of all who came before `since`: a command sent then has found nobody who answers."""
        for waiting in self._waiting:
            while waiting and waiting[0][0] < since:
                _, turn = waiting.popleft()
                if not turn.done():
                    turn.set_exception(reason())


class patience:  # used as `asyncio.timeout` is
    """A time-out of so many seconds, in steps of a fifth of them. A step begins when the event loop has seen the end
    of the one before: a loop that was held up for long uses up one, and what has come meanwhile is read first.

    `since`: when it began.

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
        await self._scope.__aexit__(kind, error, trace)  # raises TimeoutError in place of its own cancellation

    def _tick(self) -> None:
        self._left -= 1
        loop = asyncio.get_running_loop()
        if self._left:
            self._timer = loop.call_later(self._step_s, self._tick)
        else:
            self._scope.reschedule(loop.time())
