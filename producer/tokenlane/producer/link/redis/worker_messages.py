"""Sends a client's messages to workers: handovers, and requests to publish missing messages again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from tokenlane.producer.link.delta_buffer import MessageToWorker
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.messages import Handover
from tokenlane.routing.store.pool import Pool

from .redis_request import RedisRequest
from .replays import ReplayRequest
from .sealed_requests import SealedRequests

_CHECK_EVERY_S = 0.25
_MAX_QUEUED = 4096
_BATCH = 256
_BATCH_SIZE = 1024 * 1024  # characters; a server closes the connection of a subscriber that falls too far behind


class WorkerMessages:
    """Sends messages to workers in batches. A lost message is sent again when the worker or the request asks again.

    Args:
        requests: all open requests.
        sealed: seals the handovers.
    """

    def __init__(
        self, pool: Pool, requests: Iterable[RedisRequest], sealed: SealedRequests, clock: Callable[[], float]
    ) -> None:
        self._pool = pool
        self._requests = requests
        self._sealed = sealed
        self._clock = clock
        self._handovers: dict[tuple[str, int], deque[MessageToWorker]] = {}
        self._woken = asyncio.Event()

    def hand_over(self, handover: Sequence[MessageToWorker]) -> None:
        """Send the messages of a handover soon, in place of those to the same attempt that are still queued.

        If too many handovers are queued, the oldest is dropped; its worker will ask again.
        """
        first = handover[0].message
        self._handovers.pop(attempt := (first.id, first.attempt), None)
        self._handovers[attempt] = deque(handover)
        if len(self._handovers) > _MAX_QUEUED:
            del self._handovers[next(iter(self._handovers))]
        self.wake()

    def wake(self) -> None:
        """Check without delay whether a request needs a replay."""
        self._woken.set()

    async def run(self) -> None:
        """Send messages until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_EVERY_S):
                    await self._woken.wait()
            self._woken.clear()
            while batch := self._batch():
                sealed = ((worker, self._sealed.seal(message)) for (worker, message), _ in batch)
                outgoing = [(self._pool.keys.control(worker), data) for worker, data in sealed if data is not None]
                with suppress(LlmError):
                    await self._pool.publish(outgoing)
                    for _, replay in batch:
                        if replay is not None:
                            replay.mark_sent(self._clock())

    def _batch(self) -> list[tuple[MessageToWorker, ReplayRequest | None]]:
        """The messages to send now, each with the replay request that it belongs to; None for a handover."""
        batch: list[tuple[MessageToWorker, ReplayRequest | None]] = [
            (message, None) for message in self._next_handovers()
        ]
        for request in self._requests:
            if len(batch) < _BATCH and (due := request.due_replay()) is not None:
                replay, message = due
                batch.append((message, replay))
        return batch

    def _next_handovers(self) -> Iterator[MessageToWorker]:
        """Take messages of the handovers from the queue, as many as fit into a batch: one of each in turn, so that a
        long handover delays no other."""
        messages = size = 0
        while self._handovers and messages < _BATCH and size < _BATCH_SIZE:
            parts = self._handovers.pop(attempt := next(iter(self._handovers)))
            part = parts.popleft()
            if parts:
                self._handovers[attempt] = parts
            messages += 1
            size += len(part.message.text) if isinstance(part.message, Handover) else 0
            yield part
