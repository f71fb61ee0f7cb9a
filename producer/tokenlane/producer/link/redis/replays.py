"""Decides when a worker is asked to publish messages again that a reader has missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf


@dataclass(eq=False)
class ReplayRequest:
    """A request for missing messages to the worker of one attempt, repeated every `every_s` until messages arrive."""

    worker: str
    attempt: int
    every_s: float
    due_at: float = 0
    first_sent_at: float = inf

    def mark_sent(self, now: float) -> None:
        """Record that the request for messages was published."""
        self.first_sent_at = min(self.first_sent_at, now)


class Replays:
    """The missing messages of one reader, who asks one worker for them at a time.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._request: ReplayRequest | None = None

    @property
    def are_wanted(self) -> bool:
        """Whether a worker must be asked, now or later."""
        return self._request is not None

    def want(self, worker: str, attempt: int, every_s: float) -> None:
        """Ask the worker, if one is known."""
        if not worker:
            return
        if self._request is None or (self._request.worker, self._request.attempt) != (worker, attempt):
            self._request = ReplayRequest(worker, attempt, every_s)
        self._request.every_s = every_s

    def stop(self) -> None:
        """Ask no longer, since messages have arrived or will not arrive."""
        self._request = None

    def due(self) -> ReplayRequest | None:
        """The request that must be sent now; None if none is due."""
        now, request = self._clock(), self._request
        if request is None or request.due_at > now:
            return None
        request.due_at = now + request.every_s
        return request

    def have_waited(self, for_s: float) -> bool:
        """Whether a worker was first asked at least this long ago."""
        return self._request is not None and self._clock() - self._request.first_sent_at >= for_s
