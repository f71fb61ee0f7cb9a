"""The ARQ worker that starts the jobs of a lane's queue, with a loop that replaces ARQ's. No other module uses ARQ.

ARQ's loop ends at the first Redis error, and loses a slot for good if the error comes between taking the slot and
starting the job. It also sleeps for half a second between two reads of the queue. This loop survives errors, starts a
job as soon as the lane's doorbell names it, and reads the queue again when a slot becomes free while jobs wait. It uses
none of ARQ's job records: a job's id names the request and the attempt, and the pool's scripts delete the job.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import arq.worker
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.store.pool import Pool

from .attempt_key import AttemptKey
from .lane import Lane

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""How often workers check their queues for jobs whose doorbell message they may have missed."""
_HEALTH_S = 5
"""How often the record that `arq --check` reads is written."""
_REDIS_ERRORS = (RedisError, OSError)
_JOB_ID = re.compile(r"\{.+\}[^:}]+:[0-9]+")


def _parse_job_id(job_id: str) -> AttemptKey:
    """Return the request's id and the attempt's number from a job's id. lua/dispatch.lua composes it."""
    request_id, attempt = job_id.rsplit("}", 1)[1].split(":")
    return AttemptKey(request_id, int(attempt))


async def _run_nothing(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:
    pass


NO_FUNCTIONS = (arq.worker.func(_run_nothing, name="run_request"),)
"""ARQ requires at least one function. `LaneWorker` never calls it."""


RunRequest: TypeAlias = Callable[[Lane, str, int], Awaitable[None]]
"""Runs an attempt to its end. The arguments are the lane, the request's id and the attempt's number."""


class LaneWorker(arq.worker.Worker):
    """Runs a lane's jobs of one kind of work, never more at once than the lane's limit."""

    def __init__(self, lane: Lane, run_request: RunRequest, kind: Kind = "chat") -> None:
        super().__init__(
            functions=NO_FUNCTIONS,
            queue_name=lane.pool.keys.lane_queue(lane.name, kind),
            redis_pool=ArqRedis(lane.pool.commands.connections),
            handle_signals=False,
            health_check_interval=_HEALTH_S,
        )
        self._lane, self._run_request = lane, run_request
        self._reply_timeout_s = lane.pool.server.timings.command_s  # ARQ itself waits for replies without a limit
        self.kind = kind
        self._woken = asyncio.Event()
        self._more_queued, self._limit_changed, self._failing = True, False, False
        self._requeued: set[str] = set()

    async def listen(self) -> None:
        """Listen to the lane's doorbell, and to changes of its offer or state."""
        self._lane.heartbeat.on_change(self._on_lane_change)
        bell = self._lane.pool.keys.lane_doorbell(self._lane.name, self.kind)
        await self._lane.hub.subscribe(bell, self.on_doorbell, self.wake)

    def wake(self) -> None:
        """Read the queue now, or as soon as a slot is free."""
        self._more_queued = True
        self._woken.set()

    def on_doorbell(self, message: bytes) -> None:
        """Start the job that the message names without reading the queue. If no slot is free, the job waits for one."""
        job_id = message.decode("utf-8", "replace")
        if _JOB_ID.fullmatch(job_id):
            self._start_all([job_id])
        else:
            self.wake()  # malformed or from another version: any client of Redis may write to the channel

    async def stop_starting(self) -> None:
        """Start no more jobs, and requeue the jobs that no worker has started.

        Call this after the lane was announced as draining; otherwise routers keep queueing jobs.
        """
        self.allow_pick_jobs = False
        try:
            async with asyncio.timeout(self._reply_timeout_s):
                await self._read_queue()
        except (*_REDIS_ERRORS, LlmError) as error:
            logger.warning(
                "queued jobs could not be given back; routers recover them when their start leases run out: %s",
                self._translated(error),
            )

    async def abandon(self) -> None:
        """Start no more jobs, cancel the running jobs and wait for their end. Also delete ARQ's health record."""
        self.allow_pick_jobs = False
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(*_REDIS_ERRORS):
            async with asyncio.timeout(self._reply_timeout_s):
                await self.pool.delete(self.health_check_key)

    async def main(self) -> None:
        # ARQ's own `main` first reads the server's INFO, and ends if the server does not answer.
        while True:
            await self._poll_iteration()

    async def _poll_iteration(self) -> None:
        try:
            async with asyncio.timeout(self._reply_timeout_s):
                if self._more_queued:
                    await self._read_queue()
                await self.record_health()
            self._failing = False
            self._lane.unread_queues.discard(self.kind)
        except (*_REDIS_ERRORS, LlmError) as error:
            self._more_queued = self._limit_changed = True
            if self._lane.unread_queues:  # an outage concerns the queues of all kinds, and one line is enough
                self._failing = True
            self._lane.unread_queues.add(self.kind)
            self._warn_once("its queues cannot be read", error)
        with suppress(TimeoutError):
            # Twice in the interval of ARQ's health record, which expires a second after the next one is due.
            async with asyncio.timeout(POLL_S if self._failing else _HEALTH_S / 2):
                await self._woken.wait()
        self._woken.clear()

    async def _read_queue(self) -> None:
        """Start the queued jobs that no worker has started, and requeue the jobs that exceed the lane's limit."""
        limit_changed, self._limit_changed = self._limit_changed, False
        if self._limit > 0 and not limit_changed and not self._has_room():
            return
        self._more_queued = False
        jobs = await self._lane.pool.arq_queues.jobs(self.queue_name, begun=self.tasks)
        waiting = [job for job, is_begun in jobs.items() if not is_begun and job not in self.tasks]
        surplus = len(jobs) - self._limit if limit_changed or self._limit == 0 else 0
        kept = max(0, len(waiting) - max(0, surplus))
        self._requeued = {*waiting[kept:]}
        self._start_all(waiting[:kept])
        for job_id in waiting[kept:]:
            await self._lane.pool.requests.requeue(*_parse_job_id(job_id), self._lane.worker, counts=False)

    def _start_all(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            if job_id in self.tasks or job_id in self._requeued:
                continue
            if not self._has_room():
                self._more_queued = True
                return
            self._lane.readiness.begin(_parse_job_id(job_id), self.kind)
            task = self.tasks[job_id] = self.loop.create_task(self._run(job_id))
            task.add_done_callback(partial(self._on_job_done, job_id))

    @property
    def _limit(self) -> int:
        return self._lane.availability.limit_of(self.kind) if self.allow_pick_jobs else 0

    def _has_room(self) -> bool:
        return len(self.tasks) < self._limit

    def _on_lane_change(self) -> None:
        self._limit_changed = True
        self.wake()

    def _on_job_done(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self.tasks[job_id]
        self._lane.readiness.end(_parse_job_id(job_id))
        if self._more_queued:
            self._woken.set()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (*_REDIS_ERRORS, LlmError)):
            self._warn_once("a job broke off; a router recovers its request when the lease runs out", error)
        elif isinstance(error, Exception):
            self._lane.pool.internal_errors.record("job of a lane", error)

    async def _run(self, job_id: str) -> None:
        await self._run_request(self._lane, *_parse_job_id(job_id))
        self.jobs_complete += 1

    def _warn_once(self, what: str, error: RedisError | OSError | LlmError) -> None:
        """Log the error, unless another error was logged after the last successful read of the queue."""
        if not self._failing:
            logger.warning("lane %r: %s: %s", self._lane.name, what, self._translated(error))
        self._failing = True

    def _translated(self, error: RedisError | OSError | LlmError) -> LlmError:
        return error if isinstance(error, LlmError) else self._lane.pool.server.translate_error(error)


async def poll(pool: Pool, workers: Sequence[LaneWorker], every_s: float = POLL_S) -> None:
    """Wake the workers every `every_s` seconds while their queues hold jobs: a doorbell message may have been lost."""
    while True:
        await asyncio.sleep(every_s)
        try:
            queued = await pool.arq_queues.any([worker.queue_name for worker in workers])
        except LlmError:
            queued = True  # the workers will get the same error, and log it
        if queued:
            for worker in workers:
                worker.wake()
