"""Takes an attempt that the lane was given, so that no other worker runs it."""

from __future__ import annotations

import asyncio
import logging

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.request_life import Started
from tokenlane.worker.lane.lane import Lane

logger = logging.getLogger(__name__)

CLAIM_EVERY_S = 0.2


async def claim(lane: Lane, request_id: str, attempt: int) -> Started | None:
    """Take the attempt; None if it is not ours to run, or the worker is to shut down.

    Asked until there is an answer: a server that was silent may have given us the attempt all the same.
    """
    failing = False
    while not lane.runs.closing:
        try:
            return await lane.pool.requests.start(request_id, attempt, lane.worker)
        except LlmError as error:
            if not failing:
                logger.warning("the start of attempt %d of %s has to wait: %s", attempt, request_id, error)
            failing = True
        await asyncio.sleep(CLAIM_EVERY_S)
    return None
