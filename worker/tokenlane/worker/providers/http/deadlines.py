"""The time limits for each part of a streamed answer, from the lane's settings and a few constants."""

from __future__ import annotations

import asyncio
from math import inf

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import Timeout
from tokenlane.worker.providers.answers.reader import AnswerReader

# After the finish reason only the usage is missing. After the last event only the end of the body is missing, which
# makes the connection reusable. Neither is worth a failure or a long wait.
USAGE_GRACE_S = 5.0
CLOSE_GRACE_S = 0.2
# At a stop word most servers end the answer too, and then send the usage.
STOPPED_GRACE_S = 1.0


class Deadlines:
    """The time limits of one answer, by the loop's clock. `until`: when the next piece must have arrived."""

    def __init__(self, lane: LaneSettings, answer: AnswerReader) -> None:
        self._lane = lane
        self._answer = answer
        self._now = asyncio.get_running_loop().time
        self._start = self._now()
        self._events = 0
        self._ends_at = self._start + lane.total_timeout_s
        self._leave_at = inf
        self.until = min(self._start + lane.first_token_timeout_s, self._ends_at)

    def advance(self) -> None:
        """Move `until` if the answer has begun and another event has arrived."""
        answer = self._answer
        if answer.events == self._events or not answer.begun:
            return
        self._events = answer.events
        now = self._now()
        if answer.stopped:
            self._leave_at = min(self._leave_at, now + STOPPED_GRACE_S)
        self.until = min(now + self._next_piece_s(), self._ends_at, self._leave_at)

    def leaving(self) -> bool:
        """Whether a stop word ended the answer, and the time for the server to end it has passed."""
        return self._answer.stopped and self._now() >= self._leave_at

    def overdue(self) -> Timeout:
        """The error for an answer that did not arrive in time."""
        lane = self._lane
        if self._now() - self._start >= lane.total_timeout_s:
            return Timeout(f"The answer was not complete after {lane.total_timeout_s:g} s.")
        part, limit_s = ("next", lane.token_timeout_s) if self._answer.begun else ("first", lane.first_token_timeout_s)
        return Timeout(f"The model server sent no {part} token within {limit_s:g} s.")

    def _next_piece_s(self) -> float:
        if self._answer.done:
            return CLOSE_GRACE_S
        if self._answer.ending:
            return min(USAGE_GRACE_S, self._lane.token_timeout_s)
        return self._lane.token_timeout_s
