"""Asks a server several questions at once, and stops asking when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_or_cancel(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Await all of these; what they give, in their order. When one fails, none of the others goes on.

    Raises:
        Exception: the first of theirs, as itself.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in running]
