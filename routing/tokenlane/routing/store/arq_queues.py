"""Reads the ARQ queues of lanes, into which `dispatch` puts jobs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from .keys import Keys
from .replies.values import as_list, as_text
from .scripts import Scripts


class ArqQueues:
    """The ARQ queues of a pool's lanes."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    async def jobs(self, queue: str, begun: Container[str] = ()) -> Mapping[str, bool]:
        """Map the ids of all jobs in a queue, the oldest first, to whether a worker has begun the job.

        Args:
            queue: the key of the queue, from `Keys.lane_queue`.
            begun: ids of jobs that a worker has begun, as far as the caller knows. They are not looked up in Redis.
        """
        job_ids = [as_text(job_id) for job_id in as_list(await self._scripts.ask("ZRANGE", queue, 0, -1))]
        if not (others := [job_id for job_id in job_ids if job_id not in begun]):
            return dict.fromkeys(job_ids, True)
        marks = await self._scripts.ask("MGET", *(self._keys.arq(f"arq:in-progress:{job_id}") for job_id in others))
        marked = {job_id: mark is not None for job_id, mark in zip(others, as_list(marks), strict=True)}
        return {job_id: marked.get(job_id, True) for job_id in job_ids}

    async def any(self, queues: Sequence[str]) -> bool:
        """Whether any of these queues holds a job."""
        return await self._scripts.ask("EXISTS", *queues) != 0
