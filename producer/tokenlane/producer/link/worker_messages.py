"""What a client has to say to workers: answers to what they ask, and questions for what has not come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import Pool

from .delta_buffer import ToWorker
from .open_request import OpenRequest, Question

__all__ = ["WorkerMessages"]

_EVERY_S = 0.25
_MOST = 4096
_BATCH = 256


class WorkerMessages:
    """Sends it, a batch at a time. What is lost here is said again: everything is repeated.

    Args:
        requests: all that are open, by request.
    """

    def __init__(self, pool: Pool, requests: Mapping[str, Sequence[OpenRequest]]) -> None:
        self._pool = pool
        self._requests = requests
        self._answers: asyncio.Queue[ToWorker] = asyncio.Queue(_MOST)
        self._something = asyncio.Event()

    def answer(self, answer: ToWorker) -> None:
        """Send this soon; it is dropped if too much waits, and the worker asks again."""
        if not self._answers.full():
            self._answers.put_nowait(answer)
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
            while words := self._batch():
                with suppress(LlmError):
                    await self._pool.publish([(self._pool.keys.control(to), said.to_wire()) for (to, said), _ in words])
                    self._sent(question for _, question in words)

    def _batch(self) -> list[tuple[ToWorker, Question | None]]:
        """What is to be said now, and the question that it asks."""
        now = asyncio.get_running_loop().time()
        words: list[tuple[ToWorker, Question | None]] = [
            (self._answers.get_nowait(), None) for _ in range(min(self._answers.qsize(), _BATCH))
        ]
        for request in (one for those in self._requests.values() for one in those):
            question = request.question
            if question is not None and question.due <= now and len(words) < _BATCH:
                question.due = now + question.every_s
                words.append((ToWorker(question.worker, request.buffer.replay(question.attempt)), question))
        return words

    def _sent(self, questions: Iterable[Question | None]) -> None:
        """Those that were sent, which need not be what their requests ask by now."""
        now = asyncio.get_running_loop().time()
        for question in questions:
            if question is not None and question.since is None:
                question.since = now
