"""The work that a lane accepts now: its state, its limits and its models."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition


class Availability:
    """What a worker decides about its lane. After a change, call `Heartbeat.beat` or `beat_soon` to announce it.

    `announcement`: the lane's name, endpoint, models, abilities and limits. `draining`: whether the lane has stopped
    accepting new work, which it never starts again. `most_at_once`: a limit for each kind of work that applies for now
    in addition to those of the announcement; None if there is none.
    """

    def __init__(self, announcement: Announcement, condition: ServerCondition = UP) -> None:
        self.announcement = announcement
        self.draining = False
        self.most_at_once: int | None = None
        self._up = asyncio.Event()
        self.condition = condition

    @property
    def condition(self) -> ServerCondition:
        """The condition of the lane's model server."""
        return self._condition

    @condition.setter
    def condition(self, condition: ServerCondition) -> None:
        self._condition = condition
        if condition.state is LaneState.UP:
            self._up.set()
        else:
            self._up.clear()

    @property
    def state(self) -> LaneState:
        """The lane's state as this worker sees it. Other workers of the lane may be in other states."""
        return LaneState.DRAINING if self.draining else self._condition.state

    @property
    def announced(self) -> Announcement:
        """The announcement with the limits that apply now."""
        if self.most_at_once is None:
            return self.announcement
        offer = self.announcement.offer
        limits = {kind: min(limit, self.most_at_once) for kind, limit in offer.limits.items()}
        return replace(self.announcement, offer=offer.model_copy(update={"limits": limits}))

    def limit_of(self, kind: Kind) -> int:
        """How many requests of this kind may run at once now; 0 while the lane accepts no work."""
        return self.announced.offer.limit_of(kind) if self.state is LaneState.UP else 0

    async def wait_until_up(self) -> None:
        """Wait until the model server is up."""
        await self._up.wait()
