"""The time limits for the parts of a streamed answer."""

from __future__ import annotations

import asyncio
from math import inf

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import Timeout
from tokenlane.worker.providers.answers.reader import AnswerReader

# After the finish reason only the usage is missing. After the last event only the end of the body is missing, after
# which the connection can be reused. Neither justifies an error or a long wait.
USAGE_GRACE_S = 5.0
CLOSE_GRACE_S = 0.2
# Most servers also end the answer at a stop word, and then send the usage.
STOPPED_GRACE_S = 1.0


class Deadlines:
    """The time limits of one answer. The next piece must arrive before `until`, by the event loop's clock."""

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
        """Move `until` forward if a new event has arrived since the answer began."""
        answer = self._answer
        if answer.events == self._events or not answer.begun:
            return
        self._events = answer.events
        now = self._now()
        if answer.stopped:
            self._leave_at = min(self._leave_at, now + STOPPED_GRACE_S)
        self.until = min(now + self._next_piece_s(), self._ends_at, self._leave_at)

    def leaving(self) -> bool:
        """Whether to close the stream: a stop word ended the answer, but the server did not end it in time."""
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
