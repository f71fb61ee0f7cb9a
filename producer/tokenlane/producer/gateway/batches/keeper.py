"""Runs the batches of a directory: the new ones, and those whose gateway is gone."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress

from starlette.types import ASGIApp

from tokenlane.producer.link.link import Link
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.support.tasks import background

from .room import Room
from .run import run_batch
from .store import BatchStore

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_SWEEP_EVERY = 60
"""Every how many looks what has expired is deleted."""


class Keeper:
    """Runs the batches of a directory that no other gateway runs.

    Attributes:
        store: the batches.

    Args:
        app: answers the lines.
        link: the client's link to the pool.
    """

    def __init__(self, store: BatchStore, app: ASGIApp, link: Link) -> None:
        self.store = store
        self._app, self._link = app, link
        self._room = Room()
        self._running: dict[str, asyncio.Event] = {}
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look at the batches now: one is new, or was cancelled."""
        self._wake.set()

    async def keep(self) -> None:
        """Run batches until cancelled."""
        looks = 0
        async with background() as tasks:
            while True:
                self._wake.clear()
                try:
                    if looks % _SWEEP_EVERY == 0:
                        await asyncio.to_thread(self.store.sweep)
                    await self._look(tasks)
                except OSError as error:
                    logger.warning("the directory of files cannot be used: %s", error.strerror)
                looks += 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_EVERY_S):
                        await self._wake.wait()

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        """Begin what nobody runs, and pass cancels on."""
        unfinished = await asyncio.to_thread(self.store.unfinished)
        if unfinished:
            with suppress(LlmError):  # the pool is away: the limit of before holds
                self._room.fit(await self._link.lanes())
        for batch_id in unfinished:
            if (cancelled := self._running.get(batch_id)) is not None:
                if await asyncio.to_thread(self.store.cancelled_at, batch_id) is not None:
                    cancelled.set()
            elif (lock := self.store.own(batch_id)) is not None:
                self._running[batch_id] = asyncio.Event()
                tasks.create_task(self._run(batch_id, lock), name=f"tokenlane gateway: {batch_id}")

    async def _run(self, batch_id: str, lock: int) -> None:
        """Run a batch that this process owns. After an error, a later look begins it again."""
        try:
            batch = await asyncio.to_thread(self.store.read, batch_id)  # as its owner before left it
            if batch is not None and not batch.has_ended:
                await run_batch(self.store, batch, self._app, self._room, self._running[batch_id])
        except* OSError as errors:
            reason = next(iter(_leaves(errors))).strerror
            logger.warning("batch %s stops, since the directory of files cannot be used: %s", batch_id, reason)
        except* Exception as errors:
            self._link.internal_errors.record("gateway's batches", errors)
        finally:
            del self._running[batch_id]
            os.close(lock)


def _leaves(errors: BaseExceptionGroup[OSError]) -> list[OSError]:
    found: list[OSError] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
