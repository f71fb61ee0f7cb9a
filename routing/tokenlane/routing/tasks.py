"""Tasks that live beside a block of code, and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["background"]


class _Over(Exception):
    """The block has ended; so do the tasks."""


@asynccontextmanager
async def background() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose tasks are cancelled and awaited when the block ends, however it ends.

    The block's own error is raised as itself, not inside an exception group.

    Raises:
        ExceptionGroup: a task failed; the block was cancelled for it.
    """
    own: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            try:
                yield tasks
            except Exception as error:
                own = error
            raise _Over
    except* _Over:
        pass
    if own is not None:
        raise own
