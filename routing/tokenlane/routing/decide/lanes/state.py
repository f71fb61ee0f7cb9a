"""The state of a lane, computed from what is known of its workers. Plans, status, health and metrics all use it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

RESTART_MS = 60_000
"""How long a lane that was stopped counts as being restarted."""


class LaneState(StrEnum):
    """The state of a lane.

    `up`, `degraded`: it takes new work, with all or some of its workers. `loading`: its back end loads a model.
    `draining`: its workers are stopping. `down`: its back end cannot work, or its worker did not start a request.
    `left`, `gone`: no worker beats, because it was stopped, or because it vanished.
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
        """Whether its workers beat but take no work: the back end cannot work, or they do not start requests."""
        return self in (LaneState.LOADING, LaneState.DOWN)

    @property
    def is_away(self) -> bool:
        """Whether none of its workers beats: they were stopped or have vanished."""
        return self in (LaneState.LEFT, LaneState.GONE)


@dataclass(frozen=True)
class BackEndCondition:
    """The back end's state as its worker sees it: up, loading or down. `why`: why it is not up, for people."""

    state: LaneState = LaneState.UP
    why: str = ""


UP = BackEndCondition()


@dataclass(frozen=True)
class LaneWorkers:
    """What is known of a lane's workers.

    Args:
        announced: the state in the newest beat, a word of `LaneState`; '' if the worker announced none.
        beats: whether a worker has beaten within a lease.
        takers: workers that have, and take new work.
        unready: workers that have, and take no work because their back ends cannot; counted in snapshots only.
    """

    announced: str = ""
    beats: bool = True
    takers: int = 1
    unready: int = 0


def lane_state(facts: LaneWorkers) -> LaneState:
    """The state of the lane with these workers."""
    if facts.takers:
        return LaneState.DEGRADED if facts.unready else LaneState.UP
    if not facts.beats:
        return LaneState.LEFT if facts.announced == LaneState.DRAINING else LaneState.GONE
    stays = (LaneState.LOADING, LaneState.DRAINING)
    return LaneState(facts.announced) if facts.announced in stays else LaneState.DOWN


def has_left(state: LaneState, beat_ms: int) -> bool:
    """Whether the lane was shut down, and not just for a restart. `beat_ms`: time since its last beat."""
    return state is LaneState.LEFT and beat_ms > RESTART_MS
