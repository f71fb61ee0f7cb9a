"""The courier: takes a client's requests to the pool, and what comes back to their exchanges.

It owns every request from the moment it is submitted until the pool knows its end, longer than the agent if need be: a
request nobody waits for any more is cancelled, again and again until the server has heard it or its time is up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from opentelemetry import trace

from tokenlane.routing.errors import DeadlineExceeded, LlmError, PoolUnavailable, QueueFull, RequestCancelled
from tokenlane.routing.hub import Hub
from tokenlane.routing.messages import Envelope, channel_message
from tokenlane.routing.pool import Pool
from tokenlane.routing.telemetry import inject, send_span

from .delivery import Delivery, ToWorker
from .exchange import Exchange

__all__ = ["Courier"]

logger = logging.getLogger(__name__)

_SUBSCRIBE_TIMEOUT_S = 10.0
_DEADLINE_GRACE_S = 2.0
_GOODBYE_S = 2.0
_CANCEL_AGAIN_S = 0.5
_SPEAK_EVERY_S = 0.25
_OUTBOX = 4096
_BATCH = 256


class Courier:
    """All open exchanges of one client."""

    def __init__(self, pool: Pool, hub: Hub, tasks: asyncio.TaskGroup) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self.idle_reason: str | None = None
        self._pool = pool
        self._hub = hub
        self._tasks = tasks
        self._withdrawals: set[asyncio.Task[None]] = set()
        self._outbox: asyncio.Queue[ToWorker] = asyncio.Queue(_OUTBOX)
        self._words = asyncio.Event()
        self._closed = False

    # What streams call.

    async def open(self, envelope: Envelope, payload: bytes) -> Exchange:
        """Submit a request; returns when the pool has accepted it.

        Raises:
            QueueFull: the pool has too much to do.
            PoolUnavailable: the server does not answer.

        Cancellation: the request is cancelled if it reached the server.
        """
        with trace.use_span(send_span(envelope.role, envelope.id), end_on_exit=True) as span:
            envelope = envelope.model_copy(update={"trace": inject(span)})
            exchange = self._exchange(envelope, payload)
            try:
                await self._subscribe(exchange)
                if exchange.delivery.error is not None:
                    raise exchange.delivery.error
                exchange.submission = self._tasks.create_task(self._submit(exchange))
                error = await asyncio.shield(exchange.submission)
                if error is not None:
                    raise error
            except BaseException:
                self.abandon(exchange)
                raise
        return exchange

    def abandon(self, exchange: Exchange) -> None:
        """End an exchange now; have the pool told if the request has not ended there. May be called again."""
        exchange.delivery.fail(RequestCancelled())
        exchange.waiting = None
        exchange.changed.set()
        if self.exchanges.pop(exchange.id, None) is None:
            return
        self._hub.unsubscribe(self._channel(exchange))
        if exchange.timer is not None:
            exchange.timer.cancel()
        if exchange.submission is not None and not exchange.delivery.settled:
            exchange.withdrawal = self._tasks.create_task(self._withdraw(exchange))
            self._withdrawals.add(exchange.withdrawal)
            exchange.withdrawal.add_done_callback(self._withdrawals.discard)

    async def close(self, exchange: Exchange) -> None:
        """End an exchange; returns when the pool has heard it, or after 2 s: it will be told then when it can be.

        Cancellation: the pool is told all the same.
        """
        self.abandon(exchange)
        if exchange.withdrawal is not None:
            await asyncio.wait({exchange.withdrawal}, timeout=_GOODBYE_S)

    # What the client calls.

    async def close_all(self) -> bool:
        """End all exchanges; whether the pool has heard of each within 2 s."""
        self._closed = True
        for exchange in list(self.exchanges.values()):
            self.abandon(exchange)
        if not self._withdrawals:
            return True
        _, untold = await asyncio.wait(self._withdrawals, timeout=_GOODBYE_S)
        return not untold

    async def speak(self) -> None:
        """Send what is to be said to workers, for ever. What is lost here is said again: everything is repeated."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SPEAK_EVERY_S):
                    await self._words.wait()
            self._words.clear()
            while words := self._to_say():
                with suppress(PoolUnavailable):
                    await self._pool.publish([(self._pool.keys.control(to), said.to_wire()) for to, said in words])
                    self._asked(words)

    # The rest.

    def _exchange(self, envelope: Envelope, payload: bytes) -> Exchange:
        if self._closed:
            raise RequestCancelled("the client is being closed")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + envelope.time_to_live_ms / 1000 + _DEADLINE_GRACE_S
        waiting = self.idle_reason or f"waiting in the queue of role {envelope.role!r}"
        exchange = Exchange(envelope, payload, Delivery(envelope.id), deadline, loop.time(), waiting)
        exchange.timer = loop.call_at(deadline, self._expire, exchange)
        self.exchanges[exchange.id] = exchange
        return exchange

    async def _subscribe(self, exchange: Exchange) -> None:
        try:
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_S):
                await self._hub.subscribe(
                    self._channel(exchange), partial(self._hear, exchange), partial(self._miss, exchange)
                )
        except TimeoutError as error:
            raise PoolUnavailable(f"{self._pool!r} confirms no subscription: is its Redis server there?") from error

    async def _submit(self, exchange: Exchange) -> LlmError | None:
        # A task of its own, so that an agent cancelled meanwhile leaves no doubt whether the request got there.
        try:
            await self._pool.submit(exchange.envelope, exchange.payload)
        except LlmError as error:
            return error
        return None

    async def _withdraw(self, exchange: Exchange) -> None:
        assert exchange.submission is not None
        if isinstance(await exchange.submission, QueueFull):
            return
        while True:
            try:
                await self._pool.cancel(exchange.id)
                return
            except PoolUnavailable:
                if asyncio.get_running_loop().time() > exchange.deadline:
                    return  # the pool ends it by itself
                await asyncio.sleep(_CANCEL_AGAIN_S)

    def _hear(self, exchange: Exchange, data: bytes) -> None:
        delivery = exchange.delivery
        before = (delivery.attempt, delivery.position)
        answer = delivery.receive(channel_message(data))
        exchange.heard(asyncio.get_running_loop().time(), progress=before != (delivery.attempt, delivery.position))
        if answer is not None and not self._outbox.full():
            self._outbox.put_nowait(answer)
        if answer is not None or exchange.question is not None:
            self._words.set()
        if delivery.ended:
            self.abandon(exchange)
        exchange.changed.set()

    def _miss(self, exchange: Exchange) -> None:
        exchange.missed()
        self._words.set()

    def _expire(self, exchange: Exchange) -> None:
        exchange.delivery.fail(DeadlineExceeded())
        self.abandon(exchange)

    def _to_say(self) -> list[ToWorker]:
        now = asyncio.get_running_loop().time()
        words = [self._outbox.get_nowait() for _ in range(min(self._outbox.qsize(), _BATCH))]
        for exchange in self.exchanges.values():
            question = exchange.question
            if question is not None and question.due <= now and len(words) < _BATCH:
                question.due = now + question.every_s
                words.append(ToWorker(question.worker, exchange.delivery.replay(question.attempt)))
        return words

    def _asked(self, words: Iterable[ToWorker]) -> None:
        now = asyncio.get_running_loop().time()
        for word in words:
            exchange = self.exchanges.get(word.message.id)
            if exchange is not None and exchange.question is not None and exchange.question.since is None:
                exchange.question.since = now

    def _channel(self, exchange: Exchange) -> str:
        return self._pool.keys.deltas(exchange.id)
