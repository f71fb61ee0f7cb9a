"""Turns: how many commands a process has in flight at once, which command goes next, and how long its reply may take.

A command that waits for its turn has not been sent, and its time-out does not run. Beats go first, so that no process
is taken for dead because of its other commands; commands that bring new work go last.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType

_STEPS = 5


class Urgency(IntEnum):
    """The lower number goes first."""

    BEAT = 0
    USUAL = 1
    NEW_WORK = 2


class Turns:
    """At most `most` turns at once.

    Guarantee: the turn of a task that is cancelled meanwhile goes to the next.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: tuple[deque[tuple[float, asyncio.Future[None]]], ...] = tuple(deque() for _ in Urgency)

    def take_now(self) -> bool:
        """Take a free turn; False if there is none."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def take(self, urgency: Urgency = Urgency.USUAL) -> None:
        """Wait for a turn; `give_back` it in the end.

        Raises:
            Exception: the reason that `give_up` was called with.
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
        """End a turn, and begin the next one."""
        for waiting in self._waiting:
            while waiting:
                _, turn = waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1

    def give_up(self, since: float, reason: Callable[[], Exception]) -> None:
        """Fail all that wait since before `since`, when a command was sent that got no answer."""
        for waiting in self._waiting:
            while waiting and waiting[0][0] < since:
                _, turn = waiting.popleft()
                if not turn.done():
                    turn.set_exception(reason())


class patience:  # used as `asyncio.timeout` is
    """A time-out in five steps, each of which begins when the event loop has seen the end of the one before: a loop
    that was held up uses up one step, and first reads what has arrived meanwhile.

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
