"""Follows a pool: takes a snapshot every second, and says so while the pool does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from tokenlane.config.cli.sentences import age, sentence
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .trends import Trends
from .view import LiveView, live_view

EVERY_S = 1.0


@dataclass(frozen=True)
class Look:
    """The newest view, None before the first one. `outage`: why the pool does not answer now; empty if it does."""

    view: LiveView | None
    outage: str = ""


async def follow(pool: Pool, every_s: float = EVERY_S) -> AsyncGenerator[Look, None]:
    """Look at the pool once every so many seconds, for as long as the caller asks."""
    clock = asyncio.get_running_loop().time
    trends, answered_at = Trends(), clock()
    view: LiveView | None = None
    while True:
        began = clock()
        try:
            snapshot = await take_snapshot(pool)
        except LlmError as error:
            silent = age(round(1000 * (clock() - answered_at)))
            yield Look(view, f"The pool has not answered for {silent}. {sentence(error.message)}")
        else:
            trends.add(snapshot)
            view, answered_at = live_view(snapshot, trends), clock()
            yield Look(view)
        await asyncio.sleep(max(0.0, began + every_s - clock()))
