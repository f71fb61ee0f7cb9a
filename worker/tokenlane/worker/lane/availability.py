"""What a lane is now: its state, its limits and its models.

The heartbeat announces it, and the worker's loop keeps to it.
"""

from __future__ import annotations

import asyncio

from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.lanes.state import UP, Condition, LaneState


class Availability:
    """The one place that knows what the worker's lane takes. Who changes it has the heartbeat announce that.

    Args:
        announcement: what there is to say of the lane at first.
        condition: how its back end was found at first.
    """

    def __init__(self, announcement: Announcement, condition: Condition = UP) -> None:
        self._announcement = announcement
        self._draining = False
        self._up = asyncio.Event()
        self.find(condition)

    @property
    def announcement(self) -> Announcement:
        """The lane's names, models, abilities and limits."""
        return self._announcement

    @property
    def condition(self) -> Condition:
        """How its back end is."""
        return self._condition

    @property
    def state(self) -> LaneState:
        """The lane's state as far as this worker can tell."""
        return LaneState.DRAINING if self._draining else self._condition.state

    def limit_of(self, kind: Kind) -> int:
        """Requests of that kind that may run at once now: none while the lane takes no work."""
        return self._announcement.limit_of(kind) if self.state is LaneState.UP else 0

    async def up(self) -> None:
        """Wait until the back end can work."""
        await self._up.wait()

    def offer(self, announcement: Announcement) -> None:
        """From now on the lane has these models, abilities and limits."""
        self._announcement = announcement

    def find(self, condition: Condition) -> None:
        """From now on its back end is like that."""
        self._condition = condition
        if condition == UP:
            self._up.set()
        else:
            self._up.clear()

    def withdraw(self) -> None:
        """From now on it takes no new work; what runs goes on."""
        self._draining = True
