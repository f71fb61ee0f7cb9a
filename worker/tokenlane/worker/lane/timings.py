"""How long a worker waits for what. Tests shorten it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timings:
    """Seconds."""

    company_s: float = 0.005
    """A delta after its answer's first waits at most so long for deltas of other answers to share a publish."""
    kept_s: float = 60.0
    """What a request published is kept for so long after its end, for an agent that missed some of it."""
    insist_every_s: float = 0.2
    """What becomes of a request is told again to a pool that does not answer."""
    last_words_s: float = 3.0
    """What an attempt that is cancelled gets to give its request back in."""
