"""The work that a lane accepts now: its state, limits and models. The heartbeat announces it; the ARQ worker obeys."""

from __future__ import annotations

import asyncio

from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition


class Availability:
    """The state that a worker decides for its lane. Whoever changes it has the heartbeat announce the change.

    `announcement`: the lane's names, models, abilities and limits. `draining`: it takes no new work, for good.
    """

    def __init__(self, announcement: Announcement, condition: ServerCondition = UP) -> None:
        self.announcement = announcement
        self.draining = False
        self._up = asyncio.Event()
        self.condition = condition

    @property
    def condition(self) -> ServerCondition:
        """The condition of the lane's model server."""
        return self._condition

    @condition.setter
    def condition(self, condition: ServerCondition) -> None:
        self._condition = condition
        if condition == UP:
            self._up.set()
        else:
            self._up.clear()

    @property
    def state(self) -> LaneState:
        """The lane's state as far as this worker knows it."""
        return LaneState.DRAINING if self.draining else self._condition.state

    def limit_of(self, kind: Kind) -> int:
        """How many requests of that kind may run at once now; 0 while the lane takes no work."""
        return self.announcement.offer.limit_of(kind) if self.state is LaneState.UP else 0

    async def wait_until_up(self) -> None:
        """Wait until the model server can work."""
        await self._up.wait()
