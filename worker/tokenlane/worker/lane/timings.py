"""The time limits and pauses of a worker. Tests shorten them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """All in seconds."""

    batch_wait_s: float = 0.005
    """The longest time that a delta (but not an answer's first) waits to share a publish with other answers' deltas."""
    kept_s: float = 60.0
    """How long after a request's end its output is kept for an agent that missed some of it."""
    retry_s: float = 0.2
    """The pause before a pool or an agent that did not answer is asked again."""
    requeue_s: float = 3.0
    """How long a cancelled attempt may take to requeue its request."""
    check_s: float = 5.0
    """How often an idle model server is checked."""
    check_hosted_s: float = 30.0
    """The same for an `https` endpoint: a public service may charge for or limit requests."""
    describe_s: float = 30.0
    """How often the lane asks again for its model server's models."""


TIMINGS = Timings()
