"""Runs a worker until it is asked to stop, then drains it: running requests get time to complete, and none start."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager

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
"""How long running requests may continue after the worker is asked to stop."""
_CLOSE_S = 10.0
"""How long it may take to hand running requests over."""


async def run_worker(
    opening: AbstractAsyncContextManager[Lane],
    *,
    fallback: bool = False,
    drain_s: float = DRAIN_S,
    on_ready: Callable[[Lane], Awaitable[None]] | None = None,
    on_draining: Callable[[int], None] | None = None,
    stopping: asyncio.Event | None = None,
) -> int:
    """Serve a lane and run a router until a signal arrives or `stopping` is set. Return the exit code.

    SIGTERM, SIGINT or SIGHUP drains the worker: it accepts no new work, and running requests have `drain_s` seconds to
    complete. What still runs then goes back to the pool, and other lanes continue the answers. A second SIGINT does
    that at once.

    Args:
        opening: the lane, from `open_lane`.
        fallback: whether to serve the pool's fallback lane too.
        on_ready: awaited when the lane is announced. If its model server is not up by then, it is awaited again later,
            when the model server is up.
        on_draining: called with the number of running requests when the drain begins.
        stopping: set to drain the worker without a signal.

    Raises:
        LlmError: from `open_lane`.
    """
    stopping, interrupted = stopping or asyncio.Event(), False
    served = list[tuple[Lane, list[LaneWorker]]]()

    def stop(number: signal.Signals) -> None:
        nonlocal interrupted
        # Only SIGINT counts: a closing terminal may send SIGHUP twice, directly and through its shell.
        if stopping.is_set() and number == signal.SIGINT:
            interrupted = True
            for lane, _ in served:
                lane.runs.close()
                lane.publisher.missed_endings.give_up()
        stopping.set()

    with on_stop_signals(stop):
        async with AsyncExitStack() as stack:
            async with cancelled_by(stopping):
                lane = await stack.enter_async_context(opening)
                fallback_lane = await stack.enter_async_context(open_fallback(lane)) if fallback else None
                tasks = await stack.enter_async_context(background())
                stack.enter_context(_start_excluded_from_gc())
                for each in filter(None, (lane, fallback_lane)):
                    served.append((each, await start_workers(each, tasks)))
            if not served:  # stopped while the lane was opening
                return OK
            tasks.create_task(run_router(lane.pool, lane.hub, host=socket.gethostname()), name="tokenlane router")
            try:
                if on_ready is not None:
                    await on_ready(lane)
                    if lane.availability.condition != UP:
                        tasks.create_task(_call_when_up(lane, on_ready), name="tokenlane waits for the model server")
                await stopping.wait()
                if on_draining is not None:
                    on_draining(sum(len(each.runs) for each, _ in served))
                await asyncio.gather(*(drain(each, workers, drain_s) for each, workers in served))
            finally:
                await asyncio.gather(*(worker.abandon() for _, workers in served for worker in workers))
    return CANCELLED if interrupted else OK


@contextmanager
def _start_excluded_from_gc() -> Iterator[None]:
    """Exclude all objects that exist now from garbage collections until the block ends.

    They are modules, classes and settings, which live as long as the worker. A full collection that looks at them, too,
    pauses all answers for some tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _call_when_up(lane: Lane, on_ready: Callable[[Lane], Awaitable[None]]) -> None:
    await lane.availability.wait_until_up()
    await on_ready(lane)


async def start_workers(lane: Lane, tasks: asyncio.TaskGroup) -> list[LaneWorker]:
    """Start an ARQ worker for each kind of work that the lane accepts."""
    errors = lane.pool.internal_errors
    offer = lane.availability.announcement.offer
    workers = [LaneWorker(lane, run_request, kind) for kind in KINDS if kind in offer.limits]
    for worker in workers:
        await worker.listen()
        main = restart_on_error("worker's loop", worker.main, errors)
        tasks.create_task(main, name=f"tokenlane worker of {worker.queue_name}")
    if workers:
        polling = restart_on_error("polling of a lane's queues", lambda: poll(lane.pool, workers), errors)
        tasks.create_task(polling, name=f"tokenlane polls lane {lane.name}")
    return workers


async def drain(lane: Lane, workers: Sequence[LaneWorker], drain_s: float) -> None:
    """Stop accepting work, and wait for running requests. After `drain_s`, give those that remain back to the pool, for
    other lanes to continue. Wait also for agents that were cut off when their answers ended."""
    lane.availability.draining = True
    await lane.heartbeat.beat()
    await asyncio.gather(*(worker.stop_starting() for worker in workers))
    if not await _wait_for_jobs(workers, drain_s):
        running = counted(len(lane.runs), "request goes", "requests go")
        logger.warning("lane %r: %s to another lane after a drain of %g s", lane.name, running, drain_s)
        lane.runs.close()
        await _wait_for_jobs(workers, _CLOSE_S)
    await lane.publisher.missed_endings.wait()


async def _wait_for_jobs(workers: Sequence[LaneWorker], timeout_s: float) -> bool:
    """Wait until all jobs have ended. Return False if some still run after `timeout_s`."""
    jobs = [job for worker in workers for job in worker.tasks.values()]
    return not jobs or not (await asyncio.wait(jobs, timeout=timeout_s))[1]
