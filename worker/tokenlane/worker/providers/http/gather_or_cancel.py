"""Awaits several calls at once, and cancels the others when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def gather_or_cancel(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Await all calls, and return their results in order. When a call fails, the others are cancelled.

    Raises:
        Exception: the first error of a call, not wrapped in a group.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in running]
