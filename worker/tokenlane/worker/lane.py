"""The worker loop of a lane: ARQ's, and all that is overridden of it.

ARQ's own loop ends at the first Redis error, loses a slot for good if one comes between taking it and starting the job,
and sleeps half a second between two looks at the queue. This one goes on, takes a slot only for a job it may start, and
is woken by the lane's doorbell, which names the job, and by its own jobs' ends. It does not ask ARQ's record of a job
before it runs it, but meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import arq.worker
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

from tokenlane.routing.errors import LlmError
from tokenlane.routing.keys import Keys
from tokenlane.routing.messages import Kind

from .job import Lane, run_request

__all__ = ["ARQ_OPTIONS", "LaneWorker", "arq_redis", "tag_aborts"]

logger = logging.getLogger(__name__)

POLL_S = 0.5
_ANSWER_S = 5.0  # what a server gets to answer in: its connections have no bound of their own
_DAY_S = 86_400
_BROKEN = (RedisError, OSError)


def _to_json(value: dict[str, Any]) -> bytes:
    # ARQ serializes outcomes it then does not keep, exceptions among them.
    return json.dumps(value, default=lambda other: type(other).__name__).encode()


async def _run(ctx: dict[Any, Any], *args: Any, **_: Any) -> None:
    lane: Lane = ctx["lane"]
    under_way: dict[str, asyncio.Task[None]] = ctx.get("attempts", {})
    request_id, attempt = args  # as lua/dispatch.lua writes them
    await (under_way.get(ctx["job_id"]) or run_request(lane, request_id, attempt))


def _attempt(job_id: str) -> tuple[str, int]:
    """The request and the attempt that a job is, as lua/dispatch.lua names it."""
    request_id, attempt = job_id.rsplit("}", 1)[1].split(":")
    return request_id, int(attempt)


ARQ_OPTIONS: dict[str, Any] = {
    "functions": (arq.worker.func(_run, name="run_request", keep_result=0, max_tries=1),),
    "max_tries": 1,
    "retry_jobs": False,
    "keep_result": 0,
    "job_timeout": _DAY_S,  # the requests' own deadlines rule
    "allow_abort_jobs": False,
    "health_check_interval": 5,
    "job_serializer": _to_json,
    "job_deserializer": json.loads,
    "log_results": False,
}
"""How ARQ is to run attempts: once each, keeping nothing. `ctx["lane"]` must be a `Lane`."""


def tag_aborts(keys: Keys) -> None:
    """Give the set of aborted jobs, which ARQ touches in its transactions, a name in the pool's slot."""
    arq.worker.abort_jobs_ss = keys.arq_abort()  # type: ignore[attr-defined]  # where ARQ reads it


def arq_redis(connections: ConnectionPool) -> ArqRedis:
    """ARQ's kind of client over connections that are opened, and closed, by somebody else."""
    return ArqRedis(connections, job_serializer=_to_json, job_deserializer=json.loads)


class LaneWorker(arq.worker.Worker):
    """Runs the jobs of one lane and kind, at most as many at once as the lane's limit for it. `redis` is closed by who
    opened it."""

    def __init__(self, lane: Lane, redis: ArqRedis, kind: Kind = "chat") -> None:
        tag_aborts(lane.pool.keys)
        super().__init__(
            queue_name=lane.pool.keys.lane_queue(lane.name, kind),
            redis_pool=redis,
            max_jobs=lane.announcement.limit_of(kind),
            handle_signals=False,
            ctx={"lane": lane, "attempts": {}},
            **ARQ_OPTIONS,
        )
        self._lane = lane
        self._bell = lane.pool.keys.lane_doorbell(lane.name, kind)
        self._attempts: dict[str, asyncio.Task[None]] = self.ctx["attempts"]
        self._woken = asyncio.Event()
        self._rung: list[bytes] = []
        self._look_at = 0.0
        self._picking = asyncio.Lock()
        self._failing = False

    async def listen(self) -> None:
        """Be rung from now on."""
        await self._lane.hub.subscribe(self._bell, self.ring, self.wake)

    def wake(self) -> None:
        """Look at the queue now."""
        self._look_at = 0.0
        self._woken.set()

    def ring(self, job_id: bytes) -> None:
        """This job is new in the queue: start it now, without looking."""
        self._rung.append(job_id)
        self._woken.set()

    async def stop_picking(self) -> None:
        """Start no more jobs, and give those nobody has started back to the queue. Withdraw the worker first."""
        async with self._picking:
            self.allow_pick_jobs = False
        try:
            async with asyncio.timeout(_ANSWER_S):
                queued = await self._queued()
            for job_id in queued:
                await self._lane.pool.requeue(*_attempt(job_id), self._lane.worker)
        except (*_BROKEN, LlmError) as error:
            logger.warning("jobs not started are left to their start leases: %s", type(error).__name__)

    async def idle(self, within_s: float) -> bool:
        """Wait for the end of all jobs; False if some still run when the time is over."""
        if not self.tasks:
            return True
        _, running = await asyncio.wait(self.tasks.values(), timeout=within_s)
        return not running

    async def abandon(self) -> None:
        """Cancel what still runs and wait for its end; ARQ's health record goes too."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        with suppress(*_BROKEN):
            async with asyncio.timeout(_ANSWER_S):
                await self.pool.delete(self.health_check_key)

    async def main(self) -> None:
        # ARQ's own first asks the server about itself, and ends if it does not answer.
        self.ctx["redis"] = self.pool
        while True:
            await self._poll_iteration()

    async def _poll_iteration(self) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                async with self._picking:
                    jobs = await self._new_jobs()
                    if self.allow_pick_jobs:
                        await self.start_jobs(jobs)
                await self.heart_beat()
            self._failing = False
        except _BROKEN as error:
            self._complain("the lane's queue cannot be read", error)
        self._reap()
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._woken.wait()
        self._woken.clear()

    async def _new_jobs(self) -> list[bytes]:
        """Those that have rung; all of the queue when it is time to look."""
        rung, self._rung = self._rung, []
        if self.job_counter >= self.max_jobs:
            return []
        now = self.loop.time()
        if now < self._look_at:
            return rung
        self._look_at = now + POLL_S
        return list(await self.pool.zrange(self.queue_name, 0, self.queue_read_limit - 1))

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        waiting = [job_id for job_id in map(bytes.decode, job_ids) if job_id not in self.tasks]
        while waiting and (free := self.max_jobs - self.job_counter) > 0:
            batch, waiting = waiting[:free], waiting[free:]
            for job_id, score in await self._take(batch):
                self._start(job_id, score)

    async def _take(self, job_ids: list[str]) -> list[tuple[str, int]]:
        """Mark the jobs as in progress; those nobody else had, with their scores."""
        marks = [in_progress_key_prefix + job_id for job_id in job_ids]
        async with self.pool.pipeline(transaction=True) as pipe:
            for job_id, mark in zip(job_ids, marks, strict=True):
                pipe.set(mark, b"1", px=int(self.in_progress_timeout_s * 1000), nx=True)
                pipe.zscore(self.queue_name, job_id)
            replies = await pipe.execute()
        marked = [
            (job_id, mark, score)
            for job_id, mark, new, score in zip(job_ids, marks, replies[::2], replies[1::2], strict=True)
            if new
        ]
        over = [mark for _, mark, score in marked if score is None]
        if over:
            await self.pool.delete(*over)
        return [(job_id, int(score)) for job_id, _, score in marked if score is not None]

    async def _queued(self) -> list[str]:
        """The jobs of the lane that no worker has marked."""
        job_ids = [job_id.decode() for job_id in await self.pool.zrange(self.queue_name, 0, -1)]
        if not job_ids:
            return []
        marks = await self.pool.mget([in_progress_key_prefix + job_id for job_id in job_ids])
        return [job_id for job_id, mark in zip(job_ids, marks, strict=True) if mark is None]

    def _start(self, job_id: str, score: int) -> None:
        self.job_counter += 1
        task = self.tasks[job_id] = self.loop.create_task(self.run_job(job_id, score))
        task.add_done_callback(self._released)

    def _released(self, _: asyncio.Task[None]) -> None:
        if self.job_counter == self.max_jobs:
            self.wake()
        self.job_counter -= 1

    async def run_job(self, job_id: str, score: int) -> None:
        # ARQ reads its record of the job, and then awaits the attempt, which is under way.
        attempt = self._attempts[job_id] = self.loop.create_task(run_request(self._lane, *_attempt(job_id)))
        try:
            await asyncio.sleep(0)
            await super().run_job(job_id, score)
        except asyncio.CancelledError:
            attempt.cancel()
            raise
        finally:
            # It is still under way if ARQ could not read its record, or found none.
            await asyncio.gather(attempt, return_exceptions=True)
            del self._attempts[job_id]

    def _reap(self) -> None:
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                error = None if task.cancelled() else task.exception()
                if error is not None:
                    self._complain("a job is left to its lease", error)

    async def finish_job(self, job_id: str, *args: Any, **kwargs: Any) -> None:
        # `finish` and `requeue` have removed the job already; what cannot be removed now, `sweep` does.
        try:
            async with asyncio.timeout(_ANSWER_S):
                await super().finish_job(job_id, *args, **kwargs)
        except _BROKEN as error:
            self._complain("a job's keys are left to the sweep", error)

    async def finish_failed_job(self, job_id: str, *args: Any, **kwargs: Any) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await super().finish_failed_job(job_id, *args, **kwargs)
        except _BROKEN as error:
            self._complain("a job's keys are left to the sweep", error)

    def _complain(self, what: str, error: BaseException) -> None:
        """Log it, once until the queue can be read again."""
        if not self._failing:
            logger.warning("lane %r: %s (%s)", self._lane.name, what, type(error).__name__)
        self._failing = True
