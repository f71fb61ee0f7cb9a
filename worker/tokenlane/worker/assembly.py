"""Puts a worker together: `open_lane` for what its jobs share, `run_worker` for the whole process."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from functools import partial

from tokenlane.config.exit_codes import CANCELLED, OK
from tokenlane.config.host.stop_signals import broken_off, on_stop_signals
from tokenlane.config.settings.values import CacheSettings, LaneSettings, RedisSettings
from tokenlane.routing.contract.errors import LaneConflict, LlmError
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.lanes.state import UP, Condition
from tokenlane.routing.router import run_router
from tokenlane.routing.store.hub import Hub, open_hub
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.support.tasks import background, keep_going

from .attempt.observe import AttemptTotals, log_attempt
from .attempt.pipeline import run_request
from .embeddings import Embedder
from .embeddings.cache import VectorCache, open_cache
from .embeddings.fallback import FALLBACK, FastText, is_installed
from .lane.arq_worker import LaneWorker, poll
from .lane.availability import Availability
from .lane.control_channel import Control
from .lane.describe_lane import announce, announce_unseen
from .lane.heartbeat import Lease
from .lane.lane import Lane
from .lane.publisher import Publisher
from .lane.readiness import PERIODS, Periods, Readiness, condition_of, condition_said_by
from .lane.running_attempts import Runs
from .lane.worker_info import facts_of
from .models.lane_models import LaneModels
from .providers import LlmProvider, default_registry

logger = logging.getLogger(__name__)

DRAIN_S = 30.0
"""What running requests get to end in, when the worker is to stop."""
_CLOSE_S = 10.0
"""What closing the rest gets then."""


@asynccontextmanager
async def open_lane(
    settings: LaneSettings,
    redis: RedisSettings,
    *,
    pool_name: str = "main",
    provider: LlmProvider | None = None,
    cache: CacheSettings | None = None,
    transcripts: bool = False,
    periods: Periods = PERIODS,
) -> AsyncIterator[Lane]:
    """Connect a lane to its pool, and keep its leases and its streams going for as long as the block lasts.

    Args:
        provider: the back end, if it is not one the registry makes from the settings; closed at the end.
        cache: where vectors are kept; None: nowhere.
        transcripts: log requests and answers.
        periods: how often the back end is looked to.

    Raises:
        PoolUnavailable: no pool answers there.
        PoolKeyMismatch: the pool is sealed with another key.
        LaneConflict: the lane's name is in use for another endpoint.
        LlmError: the back end answers and does not say what it serves. One that does not answer is waited for: the lane
            takes work once it does.
    """
    async with connect(redis.url, pool_name, keys=redis.keys, opens=True) as pool, open_hub(pool) as hub:
        async with (
            provider or default_registry().create(settings) as backend,
            _vector_cache(cache, pool) as vectors,
        ):
            lane = await _composed(settings, pool, hub, backend, vectors, transcripts=transcripts, periods=periods)
            async with _at_work(lane):
                yield lane


@asynccontextmanager
async def open_fallback(main: Lane) -> AsyncIterator[Lane | None]:
    """The pool's fallback lane, served over the connections of the main one; None where that cannot be."""
    async with AsyncExitStack() as stack:
        lane = None
        if is_installed():
            lane = await _composed(FALLBACK, main.pool, main.hub, FastText(), None, transcripts=main.transcripts)
            try:
                await stack.enter_async_context(_at_work(lane))
            except LaneConflict:
                lane = None
                logger.warning(
                    "this worker does not serve the lane %r: others do, with another version of tokenlane's model; "
                    "install one version everywhere",
                    FALLBACK.name,
                )
        yield lane


@asynccontextmanager
async def _vector_cache(cache: CacheSettings | None, pool: Pool) -> AsyncIterator[VectorCache | None]:
    if cache is None:
        yield None
        return
    async with open_cache(cache.path, cache.limit_bytes, pool.keychain.key) as vectors:
        yield vectors


@asynccontextmanager
async def _at_work(lane: Lane) -> AsyncIterator[None]:
    """The lane beats, and all of its tasks run, for as long as the block lasts."""
    control, errors = Control(lane.runs, lane.publisher), lane.pool.internal_errors
    await lane.hub.subscribe(lane.pool.keys.control(lane.worker), control.receive, lane.lease.hurry)
    await lane.lease.open()
    await lane.hub.subscribe(lane.pool.keys.lane_wishes(lane.name), lane.models.wish)
    async with background() as tasks:
        for name, work in {
            "publisher": lane.publisher.run,
            "lease": lane.lease.run,
            "watch of the back end": lane.readiness.run,
            "pulls": lane.models.grant,
            "embeddings": lane.embedder.run,
        }.items():
            tasks.create_task(keep_going(name, work, errors), name=f"tokenlane {name}")
        yield


async def _composed(
    settings: LaneSettings,
    pool: Pool,
    hub: Hub,
    backend: LlmProvider,
    vectors: VectorCache | None,
    *,
    transcripts: bool,
    periods: Periods = PERIODS,
) -> Lane:
    """A lane's parts, each given those that it needs."""
    announcement, condition = await _first_look(settings, backend)
    worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    runs, publisher = Runs(), Publisher(pool, worker, settings.name)
    embedder = Embedder(backend, settings.provider, vectors)
    totals = AttemptTotals()

    def report() -> WorkerReport:
        return WorkerReport(
            cache=embedder.hits(),
            internal_errors=pool.internal_errors.count,
            attempts=totals.report(),
            delivery=publisher.report(),
        )

    availability = Availability(announcement, condition)
    lease = Lease(pool, worker, availability, await facts_of(backend), runs, report)

    def offer(announcement: Announcement) -> None:
        if announcement != availability.announcement:
            availability.offer(announcement)
            lease.hurry()

    models = LaneModels(settings, backend, announcement, partial(announce, settings, backend), offer)

    async def look() -> None:
        await models.look_again()
        if availability.condition != UP:
            lease.know(await facts_of(backend))

    readiness = Readiness(backend, availability, lease, runs, look, periods)
    return Lane(
        pool,
        hub,
        worker,
        availability,
        backend,
        runs,
        publisher,
        lease,
        models,
        embedder,
        readiness,
        transcripts,
        observers=(log_attempt, totals.count),
    )


async def _first_look(settings: LaneSettings, backend: LlmProvider) -> tuple[Announcement, Condition]:
    """What there is to say of the lane at first, and how its back end is."""
    condition = await condition_of(backend)
    if condition == UP:
        try:
            return await announce(settings, backend), UP
        except LlmError as error:
            condition = condition_said_by(error)
            if condition == UP:
                raise
    return announce_unseen(settings, backend), condition


async def run_worker(
    settings: LaneSettings,
    redis: RedisSettings,
    *,
    pool_name: str = "main",
    provider: LlmProvider | None = None,
    cache: CacheSettings | None = None,
    fallback: bool = False,
    drain_s: float = DRAIN_S,
    transcripts: bool = False,
    ready: Callable[[Lane], Awaitable[None]] | None = None,
    stopping: asyncio.Event | None = None,
) -> int:
    """Serve a lane, and route, until told to stop; the exit code.

    SIGTERM, SIGINT or SIGHUP drains: no new work, and `drain_s` for what runs. A second SIGINT drains no longer.

    Args:
        cache: where vectors are kept; None: nowhere.
        fallback: serve the pool's fallback lane too.
        ready: awaited when the lane is announced, and again when it takes work, if its back end had to be waited for.
        stopping: another way to make it drain: set it.

    Raises:
        LlmError: as `open_lane`.
    """
    stopping, hurried = stopping or asyncio.Event(), asyncio.Event()
    with _signals(stopping, hurried):
        opened = open_lane(
            settings, redis, pool_name=pool_name, provider=provider, cache=cache, transcripts=transcripts
        )
        async with AsyncExitStack() as stack:
            served = list[tuple[Lane, list[LaneWorker]]]()
            async with broken_off(stopping):
                lane = await stack.enter_async_context(opened)
                fallback_lane = await stack.enter_async_context(open_fallback(lane)) if fallback else None
                tasks = await stack.enter_async_context(background())
                for each in filter(None, (lane, fallback_lane)):
                    served.append((each, await start_workers(each, tuple(KINDS), tasks)))
            if not served:  # told to stop before
                return OK
            router = run_router(lane.pool, lane.hub, host=socket.gethostname())
            tasks.create_task(router, name="tokenlane router")
            try:
                if ready is not None:
                    await ready(lane)
                    if lane.availability.condition != UP:
                        tasks.create_task(_ready_later(lane, ready), name="tokenlane waits for the back end")
                await stopping.wait()
                tasks.create_task(_close_at_once([each for each, _ in served], hurried))
                await asyncio.gather(*(drain(each, workers, drain_s) for each, workers in served))
            finally:
                await asyncio.gather(*(worker.abandon() for _, workers in served for worker in workers))
    return CANCELLED if hurried.is_set() else OK


async def _ready_later(lane: Lane, ready: Callable[[Lane], Awaitable[None]]) -> None:
    await lane.availability.up()
    await ready(lane)


async def start_workers(lane: Lane, kinds: Sequence[Kind], tasks: asyncio.TaskGroup) -> list[LaneWorker]:
    """A worker for each of these kinds that the lane serves, at work."""
    workers = [LaneWorker(lane, run_request, kind) for kind in kinds if lane.availability.announcement.limit_of(kind)]
    for worker in workers:
        await worker.listen()
        main = keep_going("worker's loop", worker.main, lane.pool.internal_errors)
        tasks.create_task(main, name=f"tokenlane worker of {worker.queue_name}")
    if workers:
        polling = keep_going("polling of a lane's queues", lambda: poll(lane.pool, workers), lane.pool.internal_errors)
        tasks.create_task(polling, name=f"tokenlane polls lane {lane.name}")
    return workers


async def drain(lane: Lane, workers: Sequence[LaneWorker], drain_s: float) -> None:
    """Withdraw, wait `drain_s` for what runs, then close what is left: it is given back, or ends as interrupted."""
    lane.availability.withdraw()
    await lane.lease.beat()
    await asyncio.gather(*(worker.stop_picking() for worker in workers))
    if not await _idle(workers, drain_s):
        logger.warning("lane %r: %d requests are broken off after %g s", lane.name, len(lane.runs), drain_s)
        lane.runs.close()
        await _idle(workers, _CLOSE_S)


async def _idle(workers: Sequence[LaneWorker], within_s: float) -> bool:
    """Wait for the end of all jobs; False if some still run when the time is over."""
    return all(await asyncio.gather(*(worker.idle(within_s) for worker in workers)))


async def _close_at_once(lanes: Sequence[Lane], hurried: asyncio.Event) -> None:
    await hurried.wait()
    for lane in lanes:
        lane.runs.close()


def _signals(stopping: asyncio.Event, hurried: asyncio.Event) -> AbstractContextManager[None]:
    def stop(number: signal.Signals) -> None:
        # A terminal that closes may send SIGHUP twice, itself and by its shell.
        (hurried if stopping.is_set() and number == signal.SIGINT else stopping).set()

    return on_stop_signals(stop)
