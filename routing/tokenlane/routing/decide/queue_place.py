"""The place of a waiting request in its queue, and an estimate of when the request starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class QueuePlace:
    """The place of a waiting request in its queue.

    Attributes:
        position: the place in the order in which requests are dispatched, from 1. With more than 64 agents in the queue
            it is approximate.
        waiting: how many requests wait in the queue.
        pace_ms: the mean time between two requests that leave the queue; None if it was not measured.
    """

    position: int
    waiting: int
    pace_ms: int | None = None

    @property
    def estimate_ms(self) -> int | None:
        """The time until the request starts, if requests keep leaving the queue at the same pace; None if unknown."""
        return None if self.pace_ms is None else self.position * self.pace_ms

    @property
    def starts_in(self) -> str:
        """The estimate, such as `about 40 s`; empty if it is unknown."""
        return "" if self.estimate_ms is None else f"about {rounded(self.estimate_ms)}"

    def __str__(self) -> str:
        """The place and the estimate as part of a sentence."""
        estimate = f", starts in {self.starts_in}" if self.starts_in else ""
        return f"number {self.position} of {self.waiting} in its queue{estimate}"


def rounded(milliseconds: int) -> str:
    """A time span with the few digits that an estimate deserves."""
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 60:
        return f"{5 * round(seconds / 5)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
