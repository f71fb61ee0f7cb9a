"""Delivers what streams produce: one flush at a time, and a memory of it for agents that missed some.

A stream's `Outlet` takes deltas without waiting. When no flush is in flight the first goes out at once; what all
streams produce during a flush goes into the next one, one message a request, all in one round trip. So an idle worker
delivers every token by itself and a busy one many at a time.

What was sent is kept as it was sent until a minute after the request's end. If Redis is away it is not sent again by
itself: the agent asks for what it lacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

from pydantic_core import to_json

from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.messages import TokenDelta, deltas_writer
from tokenlane.routing.store.pool import Pool

__all__ = ["Outlet", "Publisher", "Rest"]

logger = logging.getLogger(__name__)

GATHER_S = 0.004
"""How long a busy worker waits after a flush for the next one to grow."""
KEPT_S = 60.0
KEPT_BYTES = 64 * 1024 * 1024
"""Of all requests together, running ones included."""
UNFLUSHED_BYTES = 256 * 1024
"""Of one request; its back end is not read any further while more than that waits for a flush."""
REPLAY_BYTES = 1024 * 1024
"""Of one request in one flush, which live output must not wait for; the agent asks for the rest."""
_DELTA_BYTES = 32


@dataclass(frozen=True)
class Rest:
    """The deltas of an answer that were not published, from position `first`."""

    first: int
    deltas: list[TokenDelta]

    @property
    def end(self) -> int:
        """How many deltas the answer has."""
        return self.first + len(self.deltas)


class Outlet:
    """Where one attempt's deltas go. Get one with `Publisher.open`."""

    def __init__(self, publisher: Publisher, request_id: str, attempt: int, model: str) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self.first_put_at: float | None = None
        self.channel = publisher.channel(request_id)
        self._publisher = publisher
        self._speak_as(model)
        self._first = 0
        self._waiting: list[TokenDelta] = []
        self._waiting_bytes = 0
        self._sent: deque[tuple[int, bytes]] = deque()
        self._ending: bytes | None = None
        self._in_flight = False

    def start_at(self, position: int) -> None:
        """The agent has all before `position`; call this before the first `put`."""
        self._first = position

    def put(self, delta: TokenDelta) -> None:
        """Take the next delta of the answer. It belongs to the outlet from now on.

        Raises:
            ValueError: it holds half a surrogate pair, which no JSON can carry.
        """
        self._waiting_bytes += _size(delta)
        if delta.model:
            if delta.model != self.model:
                self._speak_as(delta.model)
            delta.model_fields_set.discard("model")  # the message names it once
        if self.first_put_at is None:
            self.first_put_at = asyncio.get_running_loop().time()
        if not self._waiting:
            self._publisher._ready(self)
        self._waiting.append(delta)

    @property
    def crowded(self) -> bool:
        """More waits for a flush than should."""
        return self._waiting_bytes > UNFLUSHED_BYTES

    async def room(self) -> None:
        """Wait until the outlet is no longer crowded."""
        while self.crowded:
            await self._publisher._landed()

    async def close(self) -> Rest:
        """Wait for a flush in flight, and hand back what no flush has taken; it is not published any more."""
        self._publisher._unready(self)
        while self._in_flight:
            await self._publisher._landed()
        rest = Rest(self._first, self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        return rest

    def end(self, message: bytes) -> None:
        """Keep the message that ended the request, for agents that missed it."""
        self._ending = message
        self._publisher._ended(self)

    def discard(self) -> None:
        """Forget the attempt: another one will speak for the request."""
        self._publisher._forget(self)

    def _speak_as(self, model: str) -> None:
        self.model = model
        self._writer = deltas_writer(self.attempt, self._publisher.worker, self._publisher.lane, model)

    def _take(self) -> bytes:
        """What waits, as one message."""
        message = self._writer(self._first, self._waiting)
        self._first += len(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        self._sent.append((self._first, message))
        return message

    def _again(self, after: int) -> list[bytes]:
        """What holds something from position `after` on, the ending included: one replay's worth of it."""
        messages = [message for end, message in self._sent if end > after]
        if self._ending is not None:
            messages.append(self._ending)
        before = accumulate((len(message) for message in messages), initial=0)
        return [message for message, size in zip(messages, before, strict=False) if size < REPLAY_BYTES]


class Publisher:
    """The outlets of a worker, and the task (`run`) that flushes them."""

    def __init__(self, pool: Pool, worker: str, lane: str) -> None:
        self.worker = worker
        self.lane = lane
        self._pool = pool
        self._outlets: dict[tuple[str, int], Outlet] = {}
        self._over: dict[Outlet, asyncio.TimerHandle] = {}
        self._kept_bytes = 0
        self._dirty: dict[Outlet, None] = {}
        self._asked: dict[Outlet, int] = {}
        self._wake = asyncio.Event()
        self._begun = asyncio.Event()
        self._landing = asyncio.Event()
        self._failing = False

    def open(self, request_id: str, attempt: int, model: str) -> Outlet:
        """The outlet of an attempt."""
        outlet = self._outlets[request_id, attempt] = Outlet(self, request_id, attempt, model)
        return outlet

    def channel(self, request_id: str) -> str:
        """Where a request's agent listens."""
        return self._pool.keys.deltas(request_id)

    def replay(self, request_id: str, attempt: int, after: int) -> bool:
        """Publish everything from position `after` again, as far as it is kept; False if nothing of it is."""
        outlet = self._outlets.get((request_id, attempt))
        if outlet is None:
            return False
        self._asked[outlet] = min(after, self._asked.get(outlet, after))
        self._wake.set()
        return True

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._begun.clear()
            flying = list(self._dirty)
            try:
                await self._send(self._collect())
            finally:
                for outlet in flying:
                    outlet._in_flight = False
                self._landing.set()
                self._landing = asyncio.Event()
            if len(flying) > 1:
                await self._gather()

    async def _gather(self) -> None:
        """Let the next flush grow, unless an answer begins: its agent has waited long enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._begun.wait()

    def _collect(self) -> list[tuple[str, bytes]]:
        asked, self._asked = self._asked, {}
        dirty, self._dirty = self._dirty, {}
        messages = [(outlet.channel, message) for outlet, after in asked.items() for message in outlet._again(after)]
        try:
            for outlet in dirty:
                outlet._in_flight = True
                message = outlet._take()
                messages.append((outlet.channel, message))
                self._keep(outlet, len(message))
        except Exception:
            self._dirty = {outlet: None for outlet in dirty if outlet._waiting}
            self._wake.set()
            raise
        return messages

    async def _send(self, messages: list[tuple[str, bytes]]) -> None:
        try:
            if messages:
                await self._pool.publish(messages)
            self._failing = False
        except LlmError as error:
            if not self._failing:
                logger.warning("output is kept until agents ask for it: %s", error)
            self._failing = True

    def _ready(self, outlet: Outlet) -> None:
        self._dirty[outlet] = None
        self._wake.set()
        if not outlet._sent:
            self._begun.set()

    def _unready(self, outlet: Outlet) -> None:
        self._dirty.pop(outlet, None)

    async def _landed(self) -> None:
        """Wait for the end of the flush in flight, or of the next one."""
        await self._landing.wait()

    def _ended(self, outlet: Outlet) -> None:
        timer = asyncio.get_running_loop().call_later(KEPT_S, self._forget, outlet)
        self._over[outlet] = timer
        self._keep(outlet, len(outlet._ending or b""))

    def _forget(self, outlet: Outlet) -> None:
        if self._outlets.pop((outlet.request_id, outlet.attempt), None) is None:
            return
        timer = self._over.pop(outlet, None)
        if timer is not None:
            timer.cancel()
        self._asked.pop(outlet, None)
        self._kept_bytes -= sum(len(message) for _, message in outlet._sent) + len(outlet._ending or b"")
        outlet._sent.clear()

    def _keep(self, outlet: Outlet, added_bytes: int) -> None:
        """Count what is kept, and drop first what ended longest ago, then the oldest of what just grew."""
        self._kept_bytes += added_bytes
        while self._kept_bytes > KEPT_BYTES and self._over:
            self._forget(next(iter(self._over)))
        while self._kept_bytes > KEPT_BYTES and outlet._sent:
            _, message = outlet._sent.popleft()
            self._kept_bytes -= len(message)


def _size(delta: TokenDelta) -> int:
    size = len(delta.text.encode()) + _DELTA_BYTES
    if delta.reasoning:
        size += len(delta.reasoning.encode())
    for call in delta.tool_calls:
        size += len(f"{call.id}{call.name}{call.arguments}".encode())
        if call.extra_content:
            size += len(to_json(call.extra_content))
    if delta.logprobs:
        size += len(to_json(delta.logprobs))
    return size
