"""The pause that a model server asks for when it refuses requests for a while: with HTTP 429, or with `Retry-After`.

While the pause lasts, no request starts on the lane; those that run go on. This module only decides; `Readiness` feeds
it and closes the lane.
"""

from __future__ import annotations

import math

from tokenlane.routing.contract.errors import LlmError, RateLimited

LONGEST_PAUSE_S = 300.0
_LEAST_LIMIT_S = 0.5
"""A request with less than a second left sets no shorter limit than this: there is no time for further tries."""
_LONGEST_BACKOFF_S = 60.0


class RequestedPause:
    """Decides from the errors of a lane's requests for how long the lane pauses. Nothing shortens a pause.

    A 429 without `Retry-After` pauses the lane for `first_s`, and for twice as long after each pause that did not help,
    up to a minute. An answer ends this back-off, but not a pause that lasts. All times are in seconds on one clock.

    Args:
        first_s: the first pause if the model server does not say how long it should be.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self.reset()

    def reset(self) -> None:
        """End the pause, because the model server as a whole is away or is new."""
        self.ends_at = -math.inf
        self.why = ""
        self._backoff_s = 0.0

    def lasts(self, now: float) -> bool:
        """Whether the lane pauses at this time. If so, `ends_at` is the end, and `why` says in words why."""
        return now < self.ends_at

    def record_answer(self) -> None:
        """Record that the model server answered a request."""
        self._backoff_s = 0.0

    def record_error(self, error: LlmError, left_s: float, now: float) -> bool:
        """Record the error of a request, and return whether the lane therefore pauses, or pauses longer.

        Args:
            left_s: the time to the request's deadline. The pause takes at most half of it, so that the request gets
                another try if this lane is the only one that may serve it.
        """
        if not error.retryable or error.server_condition is not None:
            return False  # the health checks decide for how long a server that is loading or down gets no requests
        asked_s = error.retry_after_s or (self._next_backoff_s(now) if isinstance(error, RateLimited) else 0.0)
        if math.isnan(asked_s) or asked_s <= 0:
            return False
        ends_at = now + min(asked_s, max(left_s / 2, _LEAST_LIMIT_S), LONGEST_PAUSE_S)
        if ends_at <= self.ends_at:
            return False
        status = "" if error.http_status is None else f" (HTTP {error.http_status})"
        self.ends_at, self.why = ends_at, f"its model server answered with {error.code}{status}"
        return True

    def _next_backoff_s(self, now: float) -> float:
        if not self.lasts(now):
            self._backoff_s = min(max(self._first_s, 2 * self._backoff_s), _LONGEST_BACKOFF_S)
        return self._backoff_s
