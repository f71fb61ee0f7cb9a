"""Sends a client's messages to workers: requested handovers, and requests to publish lost messages again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from tokenlane.producer.link.delta_buffer import ToWorker
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import Pool

from .redis_request import RedisRequest
from .request_state import ReplayRequest

_EVERY_S = 0.25
_MOST = 4096
_BATCH = 256


class WorkerMessages:
    """Sends messages to workers in batches. If a message is lost, the worker or the request asks again.

    Args:
        requests: all open requests.
    """

    def __init__(self, pool: Pool, requests: Iterable[RedisRequest], clock: Callable[[], float]) -> None:
        self._pool = pool
        self._requests = requests
        self._clock = clock
        self._handovers: deque[ToWorker] = deque(maxlen=_MOST)
        self._wake = asyncio.Event()

    def hand_over(self, handover: ToWorker) -> None:
        """Send this handover soon. If too many wait, the oldest is dropped, and its worker asks again."""
        self._handovers.append(handover)
        self.hurry()

    def hurry(self) -> None:
        """Check soon whether a request needs a replay."""
        self._wake.set()

    async def run(self) -> None:
        """Send messages until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self._wake.wait()
            self._wake.clear()
            while batch := self._batch():
                with suppress(LlmError):
                    await self._pool.publish(
                        [(self._pool.keys.control(worker), message.to_wire()) for (worker, message), _ in batch]
                    )
                    for _, replay in batch:
                        if replay is not None:
                            replay.sent(self._clock())

    def _batch(self) -> list[tuple[ToWorker, ReplayRequest | None]]:
        """The messages to send now, each with the replay that it requests."""
        batch: list[tuple[ToWorker, ReplayRequest | None]] = [
            (self._handovers.popleft(), None) for _ in range(min(len(self._handovers), _BATCH))
        ]
        for request in self._requests:
            if len(batch) < _BATCH and (due := request.due_replay()) is not None:
                replay, message = due
                batch.append((message, replay))
        return batch
