"""Which models a server has in memory, and which requests use them. No model is unloaded while a request uses it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Protocol

PATIENCE_S = 10.0
"""How long requests for loaded models may overtake one that needs another model."""


class HoldsModels(Protocol):
    """A model server that holds only some of its models in memory."""

    async def in_memory(self) -> tuple[Iterable[str], int | None]:
        """The loaded models, and how many models fit; None: any number."""
        ...

    async def load_now(self, model: str) -> None:
        """Load the model, and return when it is ready."""
        ...

    async def unload_now(self, model: str) -> None:
        """Unload the model, and return when it is gone. Requests that use it would be cut off."""
        ...


class Residency:
    """Loads models for requests in the order of their arrival, and unloads idle ones where memory is short.

    A request for a model that is not in memory waits until the models that must leave are idle. For `patience_s`
    seconds, requests for loaded models overtake it; after that they wait behind it, so that it is served at last.

    Requests of other workers or programs that use the same server are not seen.
    """

    def __init__(self, server: HoldsModels, *, patience_s: float = PATIENCE_S) -> None:
        self._server, self._patience_s = server, patience_s
        self._users: Counter[str] = Counter()
        self._loaded: dict[str, None] = {}
        """The models in memory, the least recently used first."""
        self._most: int | None = None
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()
        self._overtaking_ends_at = math.inf
        """When requests for loaded models stop overtaking, in seconds of the event loop's clock."""
        self._listings = self._newest_listing = 0

    @asynccontextmanager
    async def using(self, model: str) -> AsyncIterator[None]:
        """Keep the model in memory for the duration of the block. It is loaded first if necessary.

        Raises:
            LlmError: the server cannot load the model.
        """
        if model in self._loaded and asyncio.get_running_loop().time() < self._overtaking_ends_at:
            self._users[model] += 1
        else:
            async with self._turn:
                await self._ensure(model)
                self._users[model] += 1
        try:
            yield
        finally:
            self._users[model] -= 1
            if model in self._loaded:
                self._loaded[model] = self._loaded.pop(model)  # the most recently used
            self._released.set()

    async def load(self, model: str) -> None:
        """Load the model, unless it is loaded. Raises the errors of `using`."""
        async with self._turn:
            await self._ensure(model)

    async def unload(self, model: str) -> None:
        """Unload the model once no request uses it. Requests that arrive meanwhile wait, and load it again."""
        async with self._turn:
            await self._refresh()
            if model in self._loaded:
                self._overtaking_ends_at = 0.0
                try:
                    await self._unload_idle([model])
                finally:
                    self._end_change()

    def begin_listing(self) -> int:
        """Return the number of a list of models that the server is asked for now, for `note`."""
        self._listings += 1
        return self._listings

    def note(self, loaded: Iterable[str], listing: int) -> None:
        """Take over which models the server lists as loaded. A list is outdated if a later one came first, or if a
        model has been loaded or unloaded since the server was asked for it.

        Args:
            listing: the list's number.
        """
        if listing > self._newest_listing and not self._turn.locked():
            self._newest_listing = listing
            self._take_over(loaded)

    async def _ensure(self, model: str) -> None:
        if model in self._loaded:
            return
        await self._refresh()
        if model in self._loaded:
            return
        self._overtaking_ends_at = asyncio.get_running_loop().time() + self._patience_s
        try:
            while self._most and len(self._loaded) >= self._most:
                await self._unload_idle(list(self._loaded))
            await self._server.load_now(model)
            self._loaded[model] = None
        finally:
            self._end_change()

    def _end_change(self) -> None:
        self._overtaking_ends_at = math.inf
        self._newest_listing = self._listings

    async def _unload_idle(self, models: list[str]) -> None:
        """Unload the first of the models that no request uses, as soon as there is one."""
        while (idle := next((model for model in models if not self._users[model]), None)) is None:
            self._released.clear()
            await self._released.wait()
        self._loaded.pop(idle, None)  # from now on, requests for it wait for their turn
        await self._server.unload_now(idle)

    async def _refresh(self) -> None:
        loaded, self._most = await self._server.in_memory()
        self._take_over(loaded)

    def _take_over(self, loaded: Iterable[str]) -> None:
        now = {*loaded}
        kept = [model for model in self._loaded if model in now]
        self._loaded = dict.fromkeys([*kept, *sorted(now.difference(kept))])
