"""The state of a lane: decided here, from what is known of its workers, for all who plan, watch or explain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

RESTART_MS = 60_000
"""How long a lane that was stopped counts as being restarted."""


class LaneState(StrEnum):
    """The state of a lane.

    `up`, `degraded`: it takes new work, with all of its workers or with some. `loading`: its back end loads a model.
    `draining`: its workers stop. `down`: its back end cannot work, or its worker did not start what it was given.
    `left`, `gone`: no worker beats, for it was stopped, or it vanished.
    """

    UP = "up"
    DEGRADED = "degraded"
    LOADING = "loading"
    DRAINING = "draining"
    DOWN = "down"
    LEFT = "left"
    GONE = "gone"

    @property
    def takes_work(self) -> bool:
        """Whether the lane is given new work."""
        return self in (LaneState.UP, LaneState.DEGRADED)

    @property
    def is_unready(self) -> bool:
        """Whether its workers beat, and it takes no work: its back end cannot, or they do not start what they get."""
        return self in (LaneState.LOADING, LaneState.DOWN)

    @property
    def is_away(self) -> bool:
        """Whether none of its workers beats: they were stopped, or have vanished."""
        return self in (LaneState.LEFT, LaneState.GONE)


@dataclass(frozen=True)
class Condition:
    """How a worker finds its back end: up, loading or down. `why`: what keeps it from being up, for people."""

    state: LaneState = LaneState.UP
    why: str = ""


UP = Condition()


@dataclass(frozen=True)
class LaneFacts:
    """What is known of the workers of a lane.

    Args:
        announced: the state in the newest beat, a word of `LaneState`; '' of a worker that said none.
        beats: some worker was heard of within a lease.
        takers: workers that were, and take new work.
        unready: workers that were, and take none since their back ends cannot; counted only where each is looked at.
    """

    announced: str = ""
    beats: bool = True
    takers: int = 1
    unready: int = 0


def lane_state(facts: LaneFacts) -> LaneState:
    """The state of the lane."""
    if facts.takers:
        return LaneState.DEGRADED if facts.unready else LaneState.UP
    if not facts.beats:
        return LaneState.LEFT if facts.announced == LaneState.DRAINING else LaneState.GONE
    stays = (LaneState.LOADING, LaneState.DRAINING)
    return LaneState(facts.announced) if facts.announced in stays else LaneState.DOWN


def has_left(state: LaneState, beat_ms: int) -> bool:
    """Whether the lane was stopped in order, and not just to be restarted.

    Args:
        beat_ms: since its last beat.
    """
    return state is LaneState.LEFT and beat_ms > RESTART_MS
