"""Repeats a call until the pool answers: an attempt outlives an outage of Redis."""

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
    lane: Lane, what: str, call: Callable[[], Awaitable[T]], should_give_up: Callable[[], bool] = lambda: False
) -> T | None:
    """Repeat the call and return its result; None if the worker shuts down or repeating is useless. The first failure
    is logged.

    Args:
        what: what has to wait, for the log.
    """
    failing = False
    while True:
        try:
            return await call()
        except LlmError as error:
            if not failing:
                logger.warning("%s has to wait: %s", what, error)
            failing = True
        if lane.runs.closing or should_give_up():
            return None
        await asyncio.sleep(lane.timings.retry_s)
