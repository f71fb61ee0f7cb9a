"""Lets who waits for a request know how far it is."""

from __future__ import annotations

from contextlib import suppress

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.messages import Progressed
from tokenlane.routing.contract.results import Progress
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.running_attempts import Run


async def tell(lane: Lane, run: Run, progress: Progress) -> None:
    """Say it once: what is lost is not said again."""
    told = Progressed(attempt=run.attempt, worker=lane.worker, lane=lane.name, progress=progress)
    with suppress(LlmError):  # the next one says more
        await lane.pool.publish([(lane.pool.keys.deltas(run.id), told.to_wire())])
