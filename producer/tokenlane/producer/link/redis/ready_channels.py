"""Request ids whose channels are subscribed in advance, so that submitting a request waits for no subscription."""

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


class ReadyChannels:
    """Ids that are ready, and ids taken for requests that are not open yet."""

    def __init__(self, hub: Hub, channel: Callable[[str], str], listener: Callable[[str], Listener]) -> None:
        self._hub, self._channel, self._listener = hub, channel, listener
        self._ready: deque[str] = deque()
        self._taken: set[str] = set()
        self._few = asyncio.Event()
        self._few.set()

    def take(self) -> str:
        """An id for a request: a ready one, or else a new one whose channel is not subscribed."""
        if len(self._ready) <= _FEW:
            self._few.set()
        if not self._ready:
            return new_id()
        self._taken.add(request_id := self._ready.popleft())
        return request_id

    def give_back(self, request_id: str) -> None:
        """No request was opened under an id that was taken."""
        if self.claim(request_id):
            self._ready.append(request_id)

    def claim(self, request_id: str) -> bool:
        """Whether the channel of a taken id is subscribed; from now on the caller owns that subscription."""
        ready = request_id in self._taken
        self._taken.discard(request_id)
        return ready

    async def run(self) -> None:
        """Subscribe to new channels whenever few are ready, for ever."""
        while True:
            await self._few.wait()
            await asyncio.sleep(_PAUSE_S)  # the request that took the last id goes first
            self._few.clear()
            try:
                await self._fill()
            except PoolUnavailable:  # requests opened meanwhile raise it
                self._few.set()
                await asyncio.sleep(_AGAIN_S)

    async def _fill(self) -> None:
        ids = [new_id() for _ in range(_MOST - len(self._ready))]
        await self._hub.subscribe_all({self._channel(fresh): self._listener(fresh) for fresh in ids})
        self._ready.extend(ids)
