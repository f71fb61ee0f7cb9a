"""Publishes the output of all attempts of a worker, one flush at a time, so that deltas of several answers share it.

A flush starts at once when the first delta of an answer arrives, and also when every answer that has begun has a delta
waiting: model servers often give each of their streams one token in turn, and a lone answer never waits. Any other
delta waits at most `Timings.batch_wait_s`. An answer's last deltas travel in the message that ends the request.

Messages that an outage of Redis swallows are sent again only when the agent asks for them.
"""

from __future__ import annotations

import asyncio
import logging

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.worker_report import DeliveryReport
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.metrics.samples import Histogram
from tokenlane.routing.watch.metrics.table import DELIVERY_INTERVALS

from .attempt_key import AttemptKey
from .outlet import Outlet
from .replay_memory import KEPT_BYTES, MissedEndings, ReplayMemory
from .timings import TIMINGS, Timings

logger = logging.getLogger(__name__)

UNFLUSHED_BYTES = 256 * 1024
"""While more bytes than this of one answer wait for a flush, no more of it is read from the model server."""


class Publisher:
    """Creates the outlets of a worker's attempts. Start `run()`, which flushes them, as a background task.

    `deltas`: how many deltas messages have carried; `newest_delta_at`: when the newest of them did, by the event loop's
    clock. `dropped_messages`: how many messages to the worker were dropped because it could not read them. `intervals`:
    the seconds between two flushes of one answer.
    """

    def __init__(
        self,
        pool: Pool,
        worker: str,
        lane: str,
        timings: Timings = TIMINGS,
        *,
        kept_bytes: int = KEPT_BYTES,
        unflushed_bytes: int = UNFLUSHED_BYTES,
    ) -> None:
        self.worker, self.lane = worker, lane
        self.pool = pool
        self.memory = ReplayMemory(timings.kept_s, kept_bytes)
        self.missed_endings = MissedEndings(timings.missed_s)
        self.unflushed_bytes = unflushed_bytes
        self.deltas = self.dropped_messages = 0
        self.newest_delta_at = 0.0
        self.intervals = Histogram(DELIVERY_INTERVALS)
        self._batch_wait_s = timings.batch_wait_s
        self._streaming: set[Outlet] = set()
        self._waiting: dict[Outlet, None] = {}
        self._in_flight: list[Outlet] = []
        self._replay_requests: dict[AttemptKey, int] = {}
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._flush_done = asyncio.Event()
        self._failing = False
        self._flushes = self._messages = self._replays = 0

    def open(self, request_id: str, attempt: int, model: str, *, is_sealed: bool = False) -> Outlet:
        """Create the outlet of an attempt. `is_sealed`: whether the request is sealed."""
        key = AttemptKey(request_id, attempt)
        self.memory.open(key)
        return Outlet(self, key, self.pool.keys.deltas(request_id), model, is_sealed=is_sealed)

    def replay(self, request_id: str, attempt: int, after: int) -> bool:
        """Publish the attempt's kept messages from position `after` on again. Return False if none are kept."""
        key = AttemptKey(request_id, attempt)
        if key not in self.memory:
            return False
        self._replay_requests[key] = min(after, self._replay_requests.get(key, after))
        self._due.set()
        return True

    def count(self, deltas: int) -> None:
        """Count the deltas of a message."""
        if deltas:
            self.deltas += deltas
            self.newest_delta_at = asyncio.get_running_loop().time()

    def report(self) -> DeliveryReport:
        """The counts since the worker started, and the size of the kept messages."""
        return DeliveryReport(
            flushes=self._flushes,
            messages=self._messages,
            deltas=self.deltas,
            replays=self._replays,
            kept_bytes=self.memory.bytes,
            dropped=self.dropped_messages,
        )

    async def run(self) -> None:
        """Flush waiting deltas and replays until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._in_flight, self._waiting = list(self._waiting), {}
            # An attempt that ends while its output is being replayed is not among these: the replay lacks its ending.
            replayed = [attempt for attempt in self._replay_requests if attempt in self.missed_endings]
            try:
                if await self._send(self._collect()):
                    self.missed_endings.discard(replayed)
            finally:
                self._in_flight = []
                self._flush_done.set()
                self._flush_done = asyncio.Event()

    def schedule(self, outlet: Outlet, *, is_first: bool) -> None:
        """Flush the outlet soon, or at once if `is_first`: its waiting delta is the first of the answer."""
        self._waiting[outlet] = None
        if is_first:
            self._streaming.add(outlet)
        if is_first or len(self._waiting) >= len(self._streaming):
            self._due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._batch_wait_s, self._due.set)

    async def stop_flushing(self, outlet: Outlet) -> None:
        """Exclude the outlet from further flushes. Return when no flush with its deltas is in flight."""
        self._streaming.discard(outlet)
        self._waiting.pop(outlet, None)
        while outlet in self._in_flight:
            await self.wait_for_flush()

    async def wait_for_flush(self) -> None:
        """Wait for the end of the flush in flight, or of the next one."""
        await self._flush_done.wait()

    def _collect(self) -> list[tuple[str, bytes]]:
        messages: list[tuple[str, bytes]] = []
        if self._replay_requests:
            requests, self._replay_requests = self._replay_requests, {}
            self._replays += len(requests)
            for key, after in requests.items():
                channel = self.pool.keys.deltas(key.request)
                messages += ((channel, message) for message in self.memory.after(key, after))
        now = asyncio.get_running_loop().time()
        for outlet in self._in_flight:
            if outlet.published_at is not None:
                self.intervals.observe(now - outlet.published_at)
            outlet.published_at = now
            messages.append((outlet.channel, outlet.take_message()))
        return messages

    async def _send(self, messages: list[tuple[str, bytes]]) -> bool:
        """Publish the messages. Return False if the pool does not answer."""
        if not messages:
            return True
        self._flushes += 1
        self._messages += len(messages)
        try:
            await self.pool.publish(messages)
            self._failing = False
            return True
        except LlmError as error:
            if not self._failing:
                logger.warning("output could not be published; agents will ask for it again: %s", error)
            self._failing = True
            return False
