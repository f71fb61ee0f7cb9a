"""Computes the state of a lane from the beats of its workers, for plans, status, health checks and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

RESTART_MS = 60_000
"""How long a lane that was stopped counts as being restarted."""


class LaneState(StrEnum):
    """The state of a lane.

    `up`: all its workers accept work; `degraded`: only some of them do. `loading`: its model server is loading a model.
    `paused`: its model server refuses requests for a while, which is no failure.
    `draining`: its workers are shutting down, or an operator drained it. `down`: its model server cannot work, or its
    worker did not start a request. `left`: its workers were shut down. `gone`: its workers have vanished.
    """

    UP = "up"
    DEGRADED = "degraded"
    LOADING = "loading"
    PAUSED = "paused"
    DRAINING = "draining"
    DOWN = "down"
    LEFT = "left"
    GONE = "gone"

    @property
    def accepts_work(self) -> bool:
        """Whether routers may dispatch requests to the lane."""
        return self in (LaneState.UP, LaneState.DEGRADED)

    @property
    def severity(self) -> Literal["ok", "warn", "fail"]:
        """How bad the state is: `ok` also for a lane that was shut down, `warn` if the state passes by itself or an
        operator wants it."""
        match self:
            case LaneState.UP | LaneState.LEFT:
                return "ok"
            case LaneState.DEGRADED | LaneState.LOADING | LaneState.PAUSED | LaneState.DRAINING:
                return "warn"
            case LaneState.DOWN | LaneState.GONE:
                return "fail"

    @property
    def is_unready(self) -> bool:
        """Whether its workers are alive but accept no work: the model server cannot work or refuses requests for a
        while, or no request starts."""
        return self in (LaneState.LOADING, LaneState.PAUSED, LaneState.DOWN)

    @property
    def is_away(self) -> bool:
        """Whether none of its workers is alive: they were shut down or have vanished."""
        return self in (LaneState.LEFT, LaneState.GONE)


@dataclass(frozen=True)
class ServerCondition:
    """The condition of a model server as its worker sees it: up, loading, paused or down. `why`: in words, why it is
    not up, or why it gets only one request at a time although it is up; empty otherwise."""

    state: LaneState = LaneState.UP
    why: str = ""


UP = ServerCondition()


@dataclass(frozen=True)
class LaneWorkers:
    """What the pool knows about a lane's workers.

    Args:
        announced: the state in the newest beat, a value of `LaneState`; '' if the beat announced no state.
        beats: whether any worker is alive, that is, has sent a beat within a lease.
        accepting_workers: how many live workers accept work.
        is_drained: whether an operator drained the lane, so that it gets no new work until the operator resumes it.
        unready: how many live workers accept no work because of their model servers. Only snapshots have it.
    """

    announced: str = ""
    beats: bool = True
    accepting_workers: int = 1
    is_drained: bool = False
    unready: int = 0


def lane_state(facts: LaneWorkers) -> LaneState:
    """The state of a lane with these workers."""
    if facts.is_drained and facts.beats:
        return LaneState.DRAINING
    if facts.accepting_workers:
        return LaneState.DEGRADED if facts.unready else LaneState.UP
    if not facts.beats:
        return LaneState.LEFT if facts.announced == LaneState.DRAINING else LaneState.GONE
    stays = (LaneState.LOADING, LaneState.PAUSED, LaneState.DRAINING)
    return LaneState(facts.announced) if facts.announced in stays else LaneState.DOWN


def has_left(state: LaneState, beat_ms: int) -> bool:
    """Whether the lane was shut down, and not just for a restart. `beat_ms`: time since its last beat."""
    return state is LaneState.LEFT and beat_ms > RESTART_MS
