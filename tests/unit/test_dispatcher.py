"""A router's turn: what it does, however often it is rung."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from tests.workshop import until

from tokenlane.routing.dispatcher import run_router
from tokenlane.routing.hub import Hub
from tokenlane.routing.keys import Keys
from tokenlane.routing.policy import Policy
from tokenlane.routing.pool import Pool, Survey, Swept
from tokenlane.routing.tasks import background


class BusyPool:
    """A pool where something happens whenever a router looks, so that it is rung all the time."""

    def __init__(self) -> None:
        self.keys = Keys("main", 0)
        self.bells: dict[str, object] = {}
        self.sweeps = 0
        self.ring: Callable[[], None] = lambda: None

    async def sweep(self, router: str, *, rank_only: bool = False, revision: int | None = None) -> Swept:
        self.sweeps += 1
        return Swept(0, False, 0, 0, 0, 0)

    async def survey(self) -> Survey:
        self.ring()
        await asyncio.sleep(0)
        return Survey(0, 0, (), ())

    async def policy(self) -> Policy:
        return Policy()

    async def subscribe(self, channel: str, receive: object, missed: Callable[[], None]) -> None:
        self.bells[channel] = missed
        self.ring = missed

    def unsubscribe(self, channel: str) -> None:
        del self.bells[channel]


async def test_a_busy_router_sweeps() -> None:
    """A doorbell that never rests keeps no router from sweeping."""
    pool = BusyPool()
    async with background() as tasks:
        tasks.create_task(run_router(cast("Pool", pool), cast("Hub", pool), host="here"))
        await until(lambda: pool.sweeps >= 3)
    assert pool.bells == {}
