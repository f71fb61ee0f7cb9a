"""One clock for all streams: with each beat every stream of one pace gets its next token, as in servers that batch."""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import Protocol

__all__ = ["Clock", "Player"]

_BLOCKED_S = 0.001
"""How soon to look again at a stream whose reader is slow."""


class Player(Protocol):
    """What gives one token after another."""

    @property
    def blocked(self) -> bool:
        """Whether the last ones have yet to leave."""
        ...

    def step(self) -> bool:
        """Give the next token; whether there are more to come."""
        ...


class _Turn:
    __slots__ = ("over", "pace_s", "player")

    def __init__(self, player: Player, pace_s: float, over: asyncio.Future[None]) -> None:
        self.player, self.pace_s, self.over = player, pace_s, over


class Clock:
    """Streams by the moment their next token is due. There is one timer, set to the first of these moments.

    A stream's first token goes at its own time, all others at multiples of its pace, so that streams of one pace share
    their moments.
    """

    def __init__(self) -> None:
        self._due: dict[float, list[_Turn]] = {}
        self._moments: list[float] = []
        self._timer: asyncio.TimerHandle | None = None

    async def play(self, player: Player, first_s: float, pace_s: float) -> None:
        """Let the player step until it has no more to come. Cancelling takes it out."""
        loop = asyncio.get_running_loop()
        turn = _Turn(player, pace_s, loop.create_future())
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
        """Set the timer to the first moment."""
        if not self._moments:
            return
        first = self._moments[0]
        if self._timer is not None:
            if self._timer.when() <= first:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(first, self._beat)

    def _beat(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        due: list[_Turn] = []
        while self._moments and self._moments[0] <= now:
            due += self._due.pop(heapq.heappop(self._moments))
        for turn in due:
            over = turn.over
            if over.done():  # cancelled
                continue
            if turn.player.blocked:
                self._put(now + _BLOCKED_S, turn)
                continue
            try:
                more = turn.player.step()
            except Exception as error:
                over.set_exception(error)
                continue
            if more:
                pace_s = turn.pace_s
                self._put((math.floor(now / pace_s) + 1) * pace_s if pace_s else now, turn)
            else:
                over.set_result(None)
        self._set()
