"""Tasks that live beside a block of code and no longer, and those that are awaited together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

__all__ = ["background", "together"]

T = TypeVar("T")


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


async def together(*calls: Awaitable[T]) -> list[T]:
    """Await all of these at once, each to its end, also if others fail; what they give, in their order.

    Raises:
        Exception: the first of theirs, once all have ended.
    """
    results: list[T] = []
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
