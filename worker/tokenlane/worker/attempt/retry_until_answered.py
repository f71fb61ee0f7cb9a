"""Repeats a call until the pool answers, so that an attempt survives an outage of Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tokenlane.routing.contract.errors import LlmError
from tokenlane.worker.lane.lane import Lane

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def retry_until_answered(
    lane: Lane, action: str, call: Callable[[], Awaitable[T]], should_give_up: Callable[[], bool]
) -> T | None:
    """Repeat the call until the pool answers, and return the result. Only the first failure is logged.

    Return None if `should_give_up` returns true after a call that failed.

    Args:
        action: what the call does, for the log, such as "start attempt 3".
    """
    failing = False
    while True:
        try:
            return await call()
        except LlmError as error:
            if not failing:
                logger.warning("cannot %s yet, retrying: %s", action, error)
            failing = True
        if should_give_up():
            return None
        await asyncio.sleep(lane.timings.retry_s)
