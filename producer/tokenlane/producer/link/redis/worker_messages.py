"""What a client has to say to workers: replies to what they ask, and questions for what has not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from tokenlane.producer.link.delta_buffer import ToWorker
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import Pool

from .redis_request import RedisRequest
from .replays import Question

_EVERY_S = 0.25
_MOST = 4096
_BATCH = 256


class WorkerMessages:
    """Sends it, a batch at a time. What is lost here is said again: everything is repeated.

    Args:
        requests: all that are open.
    """

    def __init__(self, pool: Pool, requests: Iterable[RedisRequest], clock: Callable[[], float]) -> None:
        self._pool = pool
        self._requests = requests
        self._clock = clock
        self._replies: asyncio.Queue[ToWorker] = asyncio.Queue(_MOST)
        self._something = asyncio.Event()

    def reply(self, reply: ToWorker) -> None:
        """Send this soon; it is dropped if too much waits, and the worker asks again."""
        if not self._replies.full():
            self._replies.put_nowait(reply)
        self.hurry()

    def hurry(self) -> None:
        """A request may have a question."""
        self._something.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._something.wait()
            self._something.clear()
            while batch := self._batch():
                with suppress(LlmError):
                    await self._pool.publish([(self._pool.keys.control(to), said.to_wire()) for (to, said), _ in batch])
                    for _, question in batch:
                        if question is not None:  # it need not be what its request asks by now
                            question.sent(self._clock())

    def _batch(self) -> list[tuple[ToWorker, Question | None]]:
        """What is to be said now, and the question that it asks."""
        batch: list[tuple[ToWorker, Question | None]] = [
            (self._replies.get_nowait(), None) for _ in range(min(self._replies.qsize(), _BATCH))
        ]
        for request in self._requests:
            if len(batch) < _BATCH and (due := request.due_question()) is not None:
                question, message = due
                batch.append((message, question))
        return batch
