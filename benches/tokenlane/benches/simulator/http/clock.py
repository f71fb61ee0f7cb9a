"""A clock for all streams. As in servers that batch, streams with the same pace get their tokens at the same time."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Iterator

_BLOCKED_S = 0.001
"""The time after which to retry a stream whose client reads too slowly."""
_EARLY_S = 0.001
"""How much too early a timer may fire; uvloop rounds the times of timers."""
_NEARLY = 1e-6
"""The tolerance for rounding errors when a time is divided by the pace."""


class _Turn:
    __slots__ = ("over", "pace_s", "steps")

    def __init__(self, steps: Iterator[bool], pace_s: float, over: asyncio.Future[None]) -> None:
        self.steps, self.pace_s, self.over = steps, pace_s, over


class Clock:
    """Schedules the tokens of all streams with a single timer, set to the moment of the next token.

    A stream chooses the time of its first token. All later tokens are sent at multiples of its pace, so streams with
    the same pace share their moments.
    """

    def __init__(self) -> None:
        self._due: dict[float, list[_Turn]] = {}
        self._moments: list[float] = []
        self._timer: asyncio.Handle | None = None
        self._set_to = math.inf

    async def play(self, steps: Iterator[bool], first_s: float, pace_s: float) -> None:
        """Advance an iterator at this pace until it ends. If this is cancelled, the iterator is not advanced again.

        Args:
            steps: sends a token each time it advances, and yields whether that succeeded. It ends with its last token.
            first_s: the time to the first token.
            pace_s: the time between tokens.
        """
        loop = asyncio.get_running_loop()
        turn = _Turn(steps, pace_s, loop.create_future())
        self._put(loop.time() + first_s, turn)
        self._set()
        await turn.over

    def _put(self, moment: float, turn: _Turn) -> None:
        if moment in self._due:
            self._due[moment].append(turn)
        else:
            self._due[moment] = [turn]
            heapq.heappush(self._moments, moment)

    def _set(self) -> None:
        """Set the timer to the next moment."""
        if not self._moments or self._set_to <= self._moments[0]:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._set_to = self._moments[0]
        self._timer = asyncio.get_running_loop().call_at(self._set_to, self._beat)

    def _beat(self) -> None:
        self._timer, self._set_to = None, math.inf
        now = asyncio.get_running_loop().time()
        due: list[_Turn] = []
        while self._moments and self._moments[0] <= now + _EARLY_S:
            moment = heapq.heappop(self._moments)
            now = max(now, moment)
            due += self._due.pop(moment)
        for turn in due:
            if turn.over.done():  # it was cancelled
                continue
            try:
                able = next(turn.steps)
            except StopIteration:
                turn.over.set_result(None)
            except Exception as error:
                turn.over.set_exception(error)
            else:
                self._put(_next(now, turn.pace_s) if able else now + _BLOCKED_S, turn)
        self._set()


def _next(now: float, pace_s: float) -> float:
    """Return the next multiple of the pace after `now`."""
    return (math.floor(now / pace_s + _NEARLY) + 1) * pace_s if pace_s else now
