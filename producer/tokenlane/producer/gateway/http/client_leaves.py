"""Ends the work for a client that has closed its connection, or that reads too slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from tokenlane.config.host.stop_signals import cancelled_by
from tokenlane.routing.support.tasks import background


@asynccontextmanager
async def until_client_leaves(receive: Receive) -> AsyncIterator[asyncio.Event]:
    """Cancel the block when the client closes its connection; the block then ends early, without an error.

    Yields an event that ends the block too, when it is set.
    """
    left = asyncio.Event()

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with background() as tasks:
        tasks.create_task(listen(), name="tokenlane gateway: client leaves")
        async with cancelled_by(left):
            yield left
