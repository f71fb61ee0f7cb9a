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
