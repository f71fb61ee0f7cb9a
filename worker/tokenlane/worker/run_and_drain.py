"""Runs a worker until it is asked to stop, then drains it: it takes no new work, and running requests may end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from tokenlane.config.cli.sentences import counted
from tokenlane.config.exit_codes import CANCELLED, OK
from tokenlane.config.host.stop_signals import cancelled_by, on_stop_signals
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.decide.lanes.state import UP
from tokenlane.routing.router import run_router
from tokenlane.routing.support.tasks import background, restart_on_error

from .assembly import open_fallback
from .attempt.pipeline import run_request
from .lane.arq_worker import LaneWorker, poll
from .lane.lane import Lane

logger = logging.getLogger(__name__)

DRAIN_S = 30.0
"""How long running requests may go on when the worker stops."""
_CLOSE_S = 10.0
"""How long cancelled requests may take to end."""


async def run_worker(
    opening: AbstractAsyncContextManager[Lane],
    *,
    fallback: bool = False,
    drain_s: float = DRAIN_S,
    ready: Callable[[Lane], Awaitable[None]] | None = None,
    draining: Callable[[int], None] | None = None,
    stopping: asyncio.Event | None = None,
) -> int:
    """Serve a lane, and route, until a signal or `stopping` ends that; the exit code.

    SIGTERM, SIGINT or SIGHUP drains: no new work, and `drain_s` for what runs. A second SIGINT ends the drain.

    Args:
        opening: the lane, by `open_lane`.
        fallback: serve the pool's fallback lane too.
        ready: awaited when the lane is announced, and again when its model server is up, if that was not so at first.
        draining: called when the drain begins, with the number of requests that run.

    Raises:
        LlmError: as `open_lane`.
    """
    stopping, hurried = stopping or asyncio.Event(), False
    served = list[tuple[Lane, list[LaneWorker]]]()

    def stop(number: signal.Signals) -> None:
        nonlocal hurried
        # A terminal that closes may send SIGHUP twice, itself and by its shell.
        if stopping.is_set() and number == signal.SIGINT:
            hurried = True
            for lane, _ in served:
                lane.runs.close()
        stopping.set()

    with on_stop_signals(stop):
        async with AsyncExitStack() as stack:
            async with cancelled_by(stopping):
                lane = await stack.enter_async_context(opening)
                fallback_lane = await stack.enter_async_context(open_fallback(lane)) if fallback else None
                tasks = await stack.enter_async_context(background())
                for each in filter(None, (lane, fallback_lane)):
                    served.append((each, await start_workers(each, tasks)))
            if not served:  # stopped before it began
                return OK
            tasks.create_task(run_router(lane.pool, lane.hub, host=socket.gethostname()), name="tokenlane router")
            try:
                if ready is not None:
                    await ready(lane)
                    if lane.availability.condition != UP:
                        tasks.create_task(_ready_later(lane, ready), name="tokenlane waits for the model server")
                await stopping.wait()
                if draining is not None:
                    draining(sum(len(each.runs) for each, _ in served))
                await asyncio.gather(*(drain(each, workers, drain_s) for each, workers in served))
            finally:
                await asyncio.gather(*(worker.abandon() for _, workers in served for worker in workers))
    return CANCELLED if hurried else OK


async def _ready_later(lane: Lane, ready: Callable[[Lane], Awaitable[None]]) -> None:
    await lane.availability.wait_until_up()
    await ready(lane)


async def start_workers(lane: Lane, tasks: asyncio.TaskGroup) -> list[LaneWorker]:
    """Start a worker for each kind of work that the lane serves."""
    errors = lane.pool.internal_errors
    offer = lane.availability.announcement.offer
    workers = [LaneWorker(lane, run_request, kind) for kind in KINDS if offer.limit_of(kind)]
    for worker in workers:
        await worker.listen()
        main = restart_on_error("worker's loop", worker.main, errors)
        tasks.create_task(main, name=f"tokenlane worker of {worker.queue_name}")
    if workers:
        polling = restart_on_error("polling of a lane's queues", lambda: poll(lane.pool, workers), errors)
        tasks.create_task(polling, name=f"tokenlane polls lane {lane.name}")
    return workers


async def drain(lane: Lane, workers: Sequence[LaneWorker], drain_s: float) -> None:
    """Take no new work, wait `drain_s` for running requests, then cancel them: each is requeued or interrupted."""
    lane.availability.draining = True
    await lane.heartbeat.beat()
    await asyncio.gather(*(worker.stop_starting() for worker in workers))
    if not await _ended(workers, drain_s):
        running = counted(len(lane.runs), "request is", "requests are")
        logger.warning("lane %r: %s broken off after %g s", lane.name, running, drain_s)
        lane.runs.close()
        await _ended(workers, _CLOSE_S)


async def _ended(workers: Sequence[LaneWorker], within_s: float) -> bool:
    """Wait for the end of all jobs; False if some still run when the time has passed."""
    jobs = [job for worker in workers for job in worker.tasks.values()]
    return not jobs or not (await asyncio.wait(jobs, timeout=within_s))[1]
