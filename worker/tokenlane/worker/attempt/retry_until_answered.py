"""Repeats a call until the pool answers, so that an attempt survives an outage of Redis."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.worker.lane.lane import Lane

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def retry_until_answered(
    lane: Lane,
    action: str,
    call: Callable[[], Awaitable[T]],
    should_give_up: Callable[[], bool] = lambda: False,
    errors: type[LlmError] = PoolUnavailable,
) -> T:
    """Repeat the call until the pool answers, and return the result. Only the first failure is logged.

    Args:
        action: what the call does, for the log, such as "start attempt 3".
        should_give_up: asked after each call that failed.
        errors: the errors after which the call is repeated.

    Raises:
        LlmError: another error, or the error of the last call if `should_give_up` returned true after it.
    """
    failing = False
    while True:
        try:
            return await call()
        except errors as error:
            if not failing:
                logger.warning("cannot %s yet, retrying: %s", action, error)
            failing = True
            if should_give_up():
                raise
        await asyncio.sleep(lane.timings.retry_s)
