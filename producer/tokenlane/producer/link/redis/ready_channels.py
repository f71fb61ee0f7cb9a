"""Ids whose delta channels are subscribed to ahead of their requests, so that submitting waits for no subscription."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.hub import Hub, Listener

_MOST = 16
_FEW = 8
_PAUSE_S = 0.01
_AGAIN_S = 1.0


class Ahead:
    """A few ids that are ready."""

    def __init__(self) -> None:
        self._ready: deque[str] = deque()
        self._taken: set[str] = set()
        self._few = asyncio.Event()
        self._few.set()

    def take(self) -> str:
        """An id for a request: one that is ready, else one whose channel is still to be subscribed to."""
        if len(self._ready) <= _FEW:
            self._few.set()
        if not self._ready:
            return new_id()
        request_id = self._ready.popleft()
        self._taken.add(request_id)
        return request_id

    def give_back(self, request_id: str) -> None:
        """The id was taken for a request that was never made."""
        if request_id in self._taken:
            self._taken.remove(request_id)
            self._ready.append(request_id)

    def subscribed(self, request_id: str) -> bool:
        """Whether the channel of the id was subscribed to ahead; the subscription is the caller's from now on."""
        if request_id not in self._taken:
            return False
        self._taken.remove(request_id)
        return True

    async def run(self, hub: Hub, channel: Callable[[str], str], listener: Callable[[str], Listener]) -> None:
        """Make ids ready whenever there are few, for ever.

        Args:
            channel: that of an id.
            listener: who hears it.
        """
        while True:
            await self._few.wait()
            # Who took the last one is about to submit its request, and should not wait behind this.
            await asyncio.sleep(_PAUSE_S)
            self._few.clear()
            ids = [new_id() for _ in range(_MOST - len(self._ready))]
            try:
                await hub.subscribe_all({channel(fresh): listener(fresh) for fresh in ids})
                self._ready.extend(ids)
            except PoolUnavailable:  # told to those who ask meanwhile
                self._few.set()
                await asyncio.sleep(_AGAIN_S)
