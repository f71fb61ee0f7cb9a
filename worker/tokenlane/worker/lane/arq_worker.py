"""ARQ's worker, with its loop replaced: starts the jobs of a lane's queue. No other module knows ARQ.

ARQ's own loop ends at the first Redis error, loses a slot for good if that error comes between taking the slot and
starting the job, and sleeps half a second between two looks at the queue. This loop survives errors, starts at once the
job that the lane's doorbell names, and looks at the queue again when a slot becomes free for a job that had none. It
needs none of ARQ's records: the job's id says all, and the pool's scripts delete the job.
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

from .lane import Lane

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""How often workers check their queues for jobs whose doorbell message they may have missed."""
_HEALTH_S = 5  # between two records for `arq --check`
_REDIS_ERRORS = (RedisError, OSError)
_JOB_ID = re.compile(r"\{.+\}[^:}]+:[0-9]+")


def _parse_job_id(job_id: str) -> tuple[str, int]:
    """The request and the attempt in a job's id, which lua/dispatch.lua makes."""
    request_id, attempt = job_id.rsplit("}", 1)[1].split(":")
    return request_id, int(attempt)


async def _run_nothing(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:
    pass


NO_FUNCTIONS = (arq.worker.func(_run_nothing, name="run_request"),)
"""ARQ demands a function that jobs may name; `LaneWorker` never calls it."""


RunRequest: TypeAlias = Callable[[Lane, str, int], Awaitable[None]]
"""A function that runs an attempt to its end, given the lane, the request's id and the attempt's number."""


class LaneWorker(arq.worker.Worker):
    """Runs the jobs of one lane and kind of work, never more at once than the lane's limit."""

    def __init__(self, lane: Lane, run_request: RunRequest, kind: Kind = "chat") -> None:
        super().__init__(
            functions=NO_FUNCTIONS,
            queue_name=lane.pool.keys.lane_queue(lane.name, kind),
            redis_pool=ArqRedis(lane.pool.commands.connections),
            handle_signals=False,
            health_check_interval=_HEALTH_S,
        )
        self._lane, self._run_request = lane, run_request
        self._answer_s = lane.pool.server.timings.command_s  # ARQ waits for an answer without a bound
        self.kind = kind
        self._woken = asyncio.Event()
        self._more_queued, self._limit_changed, self._failing = True, False, False
        self._requeued: set[str] = set()

    async def listen(self) -> None:
        """Subscribe to the lane's doorbell, and to changes of its limit."""
        self._lane.heartbeat.on_change(self._on_lane_change)
        bell = self._lane.pool.keys.lane_doorbell(self._lane.name, self.kind)
        await self._lane.hub.subscribe(bell, self.ring, self.wake)

    def wake(self) -> None:
        """Check the queue now, or as soon as a slot is free."""
        self._more_queued = True
        self._woken.set()

    def ring(self, bell: bytes) -> None:
        """Start the job that the doorbell message names, without reading the queue; or as soon as a slot is free."""
        job_id = bell.decode("utf-8", "replace")
        if _JOB_ID.fullmatch(job_id):
            self._start_all([job_id])
        else:
            self.wake()  # from another version, or malformed: anybody may write to the channel

    async def stop_starting(self) -> None:
        """Start no more jobs, and requeue the jobs that no worker has started. Announce first that the lane drains."""
        self.allow_pick_jobs = False
        try:
            async with asyncio.timeout(self._answer_s):
                await self._read_queue()
        except (*_REDIS_ERRORS, LlmError) as error:
            logger.warning("jobs not started are left to their start leases: %s", self._translated(error))

    async def abandon(self) -> None:
        """Start no more jobs, cancel the running jobs and wait for their end; delete ARQ's health record."""
        self.allow_pick_jobs = False
        tasks = list(self.tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(*_REDIS_ERRORS):
            async with asyncio.timeout(self._answer_s):
                await self.pool.delete(self.health_check_key)

    async def main(self) -> None:
        # ARQ's own loop first reads the server's INFO, and ends if the server does not answer.
        while True:
            await self._poll_iteration()

    async def _poll_iteration(self) -> None:
        try:
            async with asyncio.timeout(self._answer_s):
                if self._more_queued:
                    await self._read_queue()
                await self.record_health()
            self._failing = False
        except (*_REDIS_ERRORS, LlmError) as error:
            self._more_queued = self._limit_changed = True
            self._warn_once("the lane's queue cannot be read", error)
        with suppress(TimeoutError):
            # Twice as often as ARQ's health record is due, which expires a second later.
            async with asyncio.timeout(POLL_S if self._failing else _HEALTH_S / 2):
                await self._woken.wait()
        self._woken.clear()

    async def _read_queue(self) -> None:
        """Start the jobs that no worker has started yet; requeue the jobs beyond the lane's present limit."""
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
        if self._more_queued:
            self._woken.set()
        error = None if task.cancelled() else task.exception()
        if isinstance(error, (*_REDIS_ERRORS, LlmError)):
            self._warn_once("a job is left to its lease", error)
        elif isinstance(error, Exception):
            self._lane.pool.internal_errors.record("running of a job, which is left to its lease", error)

    async def _run(self, job_id: str) -> None:
        await self._run_request(self._lane, *_parse_job_id(job_id))
        self.jobs_complete += 1

    def _warn_once(self, what: str, error: RedisError | OSError | LlmError) -> None:
        """Log the error, unless one was already logged since the queue was last read."""
        if not self._failing:
            logger.warning("lane %r: %s: %s", self._lane.name, what, self._translated(error))
        self._failing = True

    def _translated(self, error: RedisError | OSError | LlmError) -> LlmError:
        return error if isinstance(error, LlmError) else self._lane.pool.server.translate_error(error)


async def poll(pool: Pool, workers: Sequence[LaneWorker], every_s: float = POLL_S) -> None:
    """Wake the workers regularly while their queues hold jobs, since they may have missed a doorbell message."""
    while True:
        await asyncio.sleep(every_s)
        try:
            queued = await pool.arq_queues.any([worker.queue_name for worker in workers])
        except LlmError:
            queued = True  # the workers will meet the error, and log it
        if queued:
            for worker in workers:
                worker.wake()
