"""Assembles a lane from its parts, and runs their background tasks for the duration of a block."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial

from tokenlane.config.settings.values import CacheSettings, LaneSettings, RedisSettings, TokenSpans
from tokenlane.routing.contract.errors import LaneConflict, LlmError, ModelNotFound
from tokenlane.routing.contract.worker_report import WorkerReport
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.lanes.state import UP, LaneState, ServerCondition
from tokenlane.routing.hooks.functions import NO_HOOKS, Hooks
from tokenlane.routing.store.hub import Hub, open_hub
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.support.tasks import InternalErrors, background, restart_on_error

from .attempt.measure import AttemptTimes
from .attempt.observe import AttemptTotals, log_attempt
from .embeddings import Embedder
from .embeddings.fallback_model import FALLBACK_SETTINGS, FastText, is_fasttext_installed
from .embeddings.vector_cache import VectorCache, open_cache
from .hooks.prompt_plugins import PromptPlugins
from .lane.availability import Availability
from .lane.control_channel import handle_control_message
from .lane.heartbeat import Heartbeat
from .lane.lane import Lane
from .lane.model_server.describe_lane import describe_lane
from .lane.model_server.readiness import Readiness, check_condition, condition_after
from .lane.publisher import Publisher
from .lane.running_attempts import Runs
from .lane.timings import TIMINGS, Timings
from .model_management.lane_models import LaneModels
from .providers import LlmProvider, default_registry
from .worker_info import worker_info

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_lane(
    settings: LaneSettings,
    redis: RedisSettings,
    *,
    pool_name: str = "main",
    provider: LlmProvider | None = None,
    cache: CacheSettings | None = None,
    transcripts: bool = False,
    token_spans: TokenSpans = "sampled",
    hooks: Hooks = NO_HOOKS,
    plugins: PromptPlugins | None = None,
    timings: Timings = TIMINGS,
    internal_errors: InternalErrors | None = None,
) -> AsyncIterator[Lane]:
    """Connect a lane to its pool, announce it, and run its background tasks for the duration of the block.

    Args:
        provider: the lane's provider, closed at the end. By default, the registry creates it from the settings.
        cache: the settings of the vector cache. By default, there is no cache.
        transcripts: whether to log requests and answers.
        token_spans: of which requests the batches of the answer are recorded as spans, if spans are recorded at all.
        hooks: the functions through which requests and answers pass.
        plugins: the prompt plugins of this process. By default, there are none.
        internal_errors: where unexpected errors in the lane's tasks are counted, if the caller counts its own there.

    Raises:
        PoolUnavailable: no pool answers.
        PoolKeyMismatch: the pool is sealed with another key.
        LaneConflict: workers for another endpoint use the lane's name.
        LlmError: the model server answers, but cannot list its models. If it does not answer, nothing is raised:
            the lane accepts work as soon as the server is up.
    """
    opened = connect(redis.url, pool_name, keys=redis.keys, unseals=True, internal_errors=internal_errors)
    async with opened as pool, open_hub(pool) as hub:
        opening: AbstractAsyncContextManager[VectorCache | None] = nullcontext()
        if cache is not None:
            opening = open_cache(cache.path, cache.limit_bytes, pool.keychain.key)
        async with provider or default_registry().create(settings) as model_server, opening as vectors:
            lane = await _assemble(
                *(settings, pool, hub, model_server, vectors, timings),
                transcripts=transcripts,
                token_spans=token_spans,
                hooks=hooks,
                plugins=plugins or PromptPlugins(),
            )
            async with _serving(lane):
                yield lane


@asynccontextmanager
async def open_fallback(main: Lane) -> AsyncIterator[Lane | None]:
    """Open the pool's fallback lane with the main lane's connections. Yield None if this worker cannot serve it."""
    async with AsyncExitStack() as stack:
        lane = None
        if is_fasttext_installed():
            lane = await _assemble(
                FALLBACK_SETTINGS,
                main.pool,
                main.hub,
                FastText(),
                None,
                main.timings,
                transcripts=main.transcripts,
                plugins=main.plugins,
            )
            try:
                await stack.enter_async_context(_serving(lane))
            except LaneConflict:
                lane = None
                logger.warning(
                    "this worker does not serve lane %r: other workers serve it with the model of another tokenlane "
                    "version. Install the same version of tokenlane on all hosts",
                    FALLBACK_SETTINGS.name,
                )
        yield lane


@asynccontextmanager
async def _serving(lane: Lane) -> AsyncIterator[None]:
    """Announce the lane, and run its background tasks for the duration of the block."""
    keys, errors = lane.pool.keys, lane.pool.internal_errors
    handle_message = partial(handle_control_message, runs=lane.runs, publisher=lane.publisher)
    await lane.hub.subscribe(keys.control(lane.worker), handle_message, lane.heartbeat.beat_soon)
    await lane.heartbeat.open()
    await lane.hub.subscribe(keys.lane_pulls(lane.name), lane.models.request_pull)
    async with background() as tasks:
        for name, work in {
            "publisher": lane.publisher.run,
            "heartbeat": lane.heartbeat.run,
            "check of the model server": lane.readiness.run,
            "model pulls": lane.models.run_pulls,
            "embeddings": lane.embedder.run,
            "prompt plugins": lane.plugins.run,
        }.items():
            tasks.create_task(restart_on_error(name, work, errors), name=f"tokenlane {name}")
        yield


async def _assemble(
    settings: LaneSettings,
    pool: Pool,
    hub: Hub,
    provider: LlmProvider,
    vectors: VectorCache | None,
    timings: Timings,
    *,
    transcripts: bool,
    token_spans: TokenSpans = "off",
    hooks: Hooks = NO_HOOKS,
    plugins: PromptPlugins,
) -> Lane:
    """Create the parts of a lane, and connect them."""
    availability = Availability(*await _describe_at_startup(settings, provider))
    worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    runs, publisher = Runs(), Publisher(pool, worker, settings.name, timings)
    embedder, totals, times = Embedder(provider, settings.provider, vectors), AttemptTotals(), AttemptTimes(settings)

    def report() -> WorkerReport:
        return WorkerReport(
            cache=embedder.cache_hits(),
            internal_errors=pool.internal_errors.count,
            attempts=totals.report(),
            delivery=publisher.report(),
            breaker=readiness.breaker_state,
            silent_ms=runs.silent_ms(publisher.newest_delta_at),
            plugins=plugins.usable,
        )

    heartbeat = Heartbeat(pool, worker, availability, await worker_info(provider), runs, report)

    def offer(announcement: Announcement) -> None:
        if announcement != availability.announcement:
            availability.announcement = announcement
            heartbeat.beat_soon()

    models = LaneModels(
        settings, provider, availability.announcement, partial(describe_lane, settings, provider), offer
    )

    async def describe() -> None:
        await models.announce_again()
        if availability.condition != UP:
            heartbeat.worker_info = await worker_info(provider)

    readiness = Readiness(provider, availability, heartbeat, runs, describe, timings)
    return Lane(
        pool,
        hub,
        worker,
        availability,
        provider,
        runs,
        publisher,
        heartbeat,
        models,
        embedder,
        readiness,
        transcripts,
        (log_attempt, totals.count, times.observe),
        timings,
        measured=lambda: times.samples(publisher.intervals),
        token_spans=token_spans,
        hooks=hooks,
        plugins=plugins,
    )


async def _describe_at_startup(settings: LaneSettings, provider: LlmProvider) -> tuple[Announcement, ServerCondition]:
    """The lane's first announcement, and the condition of its model server."""
    condition = await check_condition(provider)
    try:
        return await describe_lane(settings, provider, reachable=condition == UP), condition
    except LlmError as error:
        condition = condition_after(error)
        if settings.models and isinstance(error, ModelNotFound):  # the lane waits for its models
            condition = ServerCondition(LaneState.DOWN, error.message)
        if condition == UP:
            raise
    return await describe_lane(settings, provider, reachable=False), condition
