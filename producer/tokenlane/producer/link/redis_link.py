"""The courier: takes a client's requests to the pool, and what comes back to their exchanges.

It owns every request from the moment it is submitted until the pool knows its end, longer than the agent if need be: a
request nobody waits for any more is cancelled, again and again until the server has heard it or its time is up.

Several may read one request, here and in other processes. One of them owns it: the one that came last. The others only
listen: leaving cancels nothing, and later attempts are not told how far they have got.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import get_args

from tokenlane.routing.contract.errors import (
    DeadlineExceeded,
    LlmError,
    PoolUnavailable,
    QueueFull,
    RequestCancelled,
    RequestLost,
)
from tokenlane.routing.contract.messages import Attached, Envelope, Progressed, channel_message
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.store.command_turns import Turns
from tokenlane.routing.store.hub import Hub, Listener
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies import Ending
from tokenlane.routing.support.telemetry import inject, sending

from .delta_buffer import Delivery
from .open_request import LACKING_EVERY_S, UNCERTAIN_EVERY_S, Exchange
from .ready_channels import Ahead
from .worker_messages import Outbox

__all__ = ["Courier"]

logger = logging.getLogger(__name__)

_DEADLINE_GRACE_S = 2.0
_ENDED_LEFT_MS = 30_000
_GOODBYE_S = 2.0
_MOST_BEING_SENT = 256
_CANCEL_AGAIN_S = 0.5


class Courier:
    """All open exchanges of one client: `exchanges` has them by request, several if it is read more than once."""

    def __init__(self, pool: Pool, hub: Hub, tasks: asyncio.TaskGroup, client: str) -> None:
        self.exchanges: dict[str, list[Exchange]] = {}
        self.idle_reason: str | None = None
        self.internal_errors = pool.internal_errors
        self._pool = pool
        self._hub = hub
        self._tasks = tasks
        self._client = client
        self._withdrawals: set[asyncio.Task[None]] = set()
        self._outbox = Outbox(pool, self.exchanges)
        self._closed = False

    def __iter__(self) -> Iterator[Exchange]:
        return iter([exchange for those in self.exchanges.values() for exchange in those])

    @property
    def held(self) -> int:
        """How many requests the pool may have that are this client's."""
        return sum(any(exchange.owned for exchange in those) for those in self.exchanges.values())

    # What streams call.

    @cached_property
    def ahead(self) -> Ahead:
        """Ids for requests."""
        return Ahead()

    @cached_property
    def _turns(self) -> Turns:
        return Turns(_MOST_BEING_SENT)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Wait for a turn to make and open a new request, and hold it for the block: however many requests are asked
        for at once, few are being sent, and the event loop has time for beats and answers. Yields the loop's time at
        which the wait began; the request's time to live counts from then.

        Raises:
            PoolUnavailable: a request that was sent during the wait has found no server.
        """
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        await self._turns.take()
        sent_at = clock()
        try:
            yield asked_at
        except PoolUnavailable as error:
            report = error.report()
            self._turns.give_up(sent_at, lambda: LlmError.from_report(report))
            raise
        finally:
            self._turns.give_back()

    async def open(
        self, envelope: Envelope, payload: bytes, idempotency_key: str | None = None, asked_at: float | None = None
    ) -> Exchange:
        """Submit a request; returns when the pool has accepted it.

        Args:
            asked_at: what `turn` gave; None: now.

        If the agent has submitted the idempotency key before, the exchange is that of the running request.

        Raises:
            Duplicate: the request that had the idempotency key has ended.
            QueueFull: the pool has too much to do.
            PoolUnavailable: the server does not answer.

        Cancellation: the request is cancelled if it reached the server.
        """
        if idempotency_key:
            envelope = envelope.model_copy(update={"idempotency": self._pool.keychain.fingerprint(idempotency_key)})
        with sending(envelope.role, envelope.id) as span:
            if context := inject(span):
                envelope = envelope.model_copy(update={"trace": context})
            exchange = self._exchange(Delivery(envelope.id), envelope.role, (envelope, payload))
            self._limit(exchange, envelope.time_to_live_ms, asked_at)
            await self._enter(exchange, partial(self._submit, exchange))
        if exchange.known_as == exchange.id:
            return exchange
        exchange.owned = False
        self.abandon(exchange)
        return await self.attach(exchange.known_as)

    async def attach(self, request_id: str, position: int = 0) -> Exchange:
        """Join a request, from that position of its answer on, and own it from now on.

        Raises:
            RequestLost: the pool does not know it.
            BadRequest: its answer has ended before that position.
            PoolUnavailable: the server does not answer.

        Cancellation: the request is cancelled if this client owns it by then.
        """
        exchange = self._exchange(Delivery(request_id, position=position), "", None)
        await self._enter(exchange, partial(self._take_over, exchange))
        return exchange

    def abandon(self, exchange: Exchange, *, everywhere: bool = False) -> None:
        """End an exchange now; have the pool told if the request has not ended there. May be called again.

        Args:
            everywhere: end the request even if others read it, or own it.
        """
        if not exchange.delivery.ended:
            exchange.delivery.fail(RequestCancelled())
        exchange.waiting = None
        exchange.changed.set()
        others = self.exchanges.get(exchange.id, [])
        if exchange not in others:
            return
        others.remove(exchange)
        if exchange.timer is not None:
            exchange.timer.cancel()
        if not others:
            del self.exchanges[exchange.id]
            self._hub.unsubscribe(self._channel(exchange))
        if exchange.submission is None or (exchange.delivery.settled and exchange.submission.done()):
            return
        if everywhere or (exchange.owned and not others):
            exchange.withdrawal = self._tasks.create_task(self._withdraw(exchange, "" if everywhere else self._client))
            self._withdrawals.add(exchange.withdrawal)
            exchange.withdrawal.add_done_callback(self._withdrawals.discard)
        elif exchange.owned:
            others[-1].owned = True

    async def close(self, exchange: Exchange, *, everywhere: bool = False) -> None:
        """End an exchange; returns when the pool has heard it, or after 2 s: it will be told then when it can be.

        Cancellation: the pool is told all the same.
        """
        self.abandon(exchange, everywhere=everywhere)
        if exchange.withdrawal is not None:
            await asyncio.wait({exchange.withdrawal}, timeout=_GOODBYE_S)

    @asynccontextmanager
    async def asking(
        self, envelope: Envelope, payload: bytes, idempotency_key: str | None = None
    ) -> AsyncIterator[Exchange]:
        """A request that is no chat, submitted; leaving the block before its end cancels it.

        Raises:
            LlmError: as `open`.
        """
        async with self.turn() as asked_at:
            exchange = await self.open(envelope, payload, idempotency_key, asked_at)
        try:
            yield exchange
        finally:
            await self.close(exchange)

    async def lanes(self) -> tuple[LaneView, ...]:
        """The pool's lanes as routers see them.

        Raises:
            PoolUnavailable: the server does not answer.
        """
        return (await self._pool.survey()).lanes

    async def send_again(self, exchange: Exchange) -> Exception | None:
        """Submit a request again that the pool has lost; the error, if any. It may be abandoned by then."""
        exchange.submission = self._tasks.create_task(self._outcome(self._submit_again(exchange)))
        return await asyncio.shield(exchange.submission)

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request, whoever reads it; False if it has ended otherwise, or the pool does not know it.

        Raises:
            PoolUnavailable: the server does not answer.
        """
        return await self._pool.cancel(request_id) in ("cancelled", "flagged")

    # What the client calls.

    async def close_all(self) -> bool:
        """End all exchanges; whether the pool has heard of each within 2 s."""
        self._closed = True
        for exchange in self:
            self.abandon(exchange)
        if not self._withdrawals:
            return True
        _, untold = await asyncio.wait(self._withdrawals, timeout=_GOODBYE_S)
        return not untold

    async def subscribe_ahead(self) -> None:
        """Keep channels ready for requests to come, for ever."""
        await self.ahead.run(self._hub, self._pool.keys.deltas, self._listener)

    async def speak(self) -> None:
        """Send what is to be said to workers, for ever."""
        await self._outbox.run()

    # The rest.

    def _exchange(self, delivery: Delivery, role: str, copy: tuple[Envelope, bytes] | None) -> Exchange:
        if self._closed:
            raise RequestCancelled("the client is being closed")
        now = asyncio.get_running_loop().time()
        exchange = Exchange(
            delivery.request_id, role, copy, delivery, float("inf"), now, self._why(role), opened_at=now
        )
        self.exchanges.setdefault(exchange.id, []).append(exchange)
        return exchange

    def _why(self, role: str) -> str:
        return self.idle_reason or f"waiting in the queue of role {role!r}"

    def _limit(self, exchange: Exchange, time_to_live_ms: int, since: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        exchange.deadline = (loop.time() if since is None else since) + time_to_live_ms / 1000 + _DEADLINE_GRACE_S
        exchange.timer = loop.call_at(exchange.deadline, self._expire, exchange)

    async def _enter(self, exchange: Exchange, submit: Callable[[], Coroutine[None, None, LlmError | None]]) -> None:
        try:
            await self._subscribe(exchange)
            if exchange.delivery.error is not None:
                raise exchange.delivery.error
            # A task of its own, so that an agent cancelled meanwhile leaves no doubt whether the request got there.
            exchange.submission = self._tasks.create_task(self._outcome(submit()))
            error = await asyncio.shield(exchange.submission)
            if error is not None:
                raise error
        except BaseException:
            self.abandon(exchange)
            raise

    async def _outcome(self, submitting: Coroutine[None, None, LlmError | None]) -> Exception | None:
        try:
            return await submitting
        except Exception as error:  # ends this request, and no other
            self.internal_errors.note("sending of a request", error)
            return error

    async def _subscribe(self, exchange: Exchange) -> None:
        if len(self.exchanges[exchange.id]) > 1:
            return
        if self.ahead.subscribed(exchange.id):
            return
        await self._hub.subscribe(self._channel(exchange), *self._listener(exchange.id))

    async def _submit(self, exchange: Exchange) -> LlmError | None:
        """Its time to live counts from when the agent asked: what has passed since is taken off."""
        assert exchange.copy is not None
        envelope, payload = exchange.copy
        left_s = exchange.deadline - _DEADLINE_GRACE_S - asyncio.get_running_loop().time()
        if left_s <= 0:
            return DeadlineExceeded()
        envelope = envelope.model_copy(update={"time_to_live_ms": math.ceil(1000 * left_s)})
        try:
            accepted = await self._pool.submit(envelope, payload, exchange.delivery.attempt)
        except LlmError as error:
            return error
        exchange.known_as = accepted.id
        return None

    async def _submit_again(self, exchange: Exchange) -> LlmError | None:
        error = await self._submit(exchange)
        if error is not None:
            return error
        if exchange.known_as == exchange.id:
            exchange.owned = True
            return None
        return RequestLost(
            "the pool lost this request, and has another with its idempotency key now: ask again to join that one"
        )

    async def _take_over(self, exchange: Exchange) -> LlmError | None:
        try:
            held = await self._pool.attach(self._client, exchange.id)
        except LlmError as error:
            return error
        standing, delivery = held.standing, exchange.delivery
        if standing.state == "missing":
            return RequestLost(
                f"the pool knows no request {exchange.id}: it ended an hour ago, was lost or never was; ask again"
            )
        if standing.end is not None and (beyond := delivery.beyond(standing.end)) is not None:
            return beyond
        for other in self.exchanges.get(exchange.id, ()):
            other.owned = other is exchange
        if delivery.ended:  # by what came on its channel meanwhile
            return None
        ended = standing.state in get_args(Ending)
        exchange.role = held.role
        exchange.waiting = None if ended or standing.state == "running" else self._why(held.role)
        self._limit(exchange, max(held.left_ms, _ENDED_LEFT_MS if ended else 0))
        delivery.attempt = max(delivery.attempt, standing.attempt)
        exchange.missed()
        exchange.ask(standing.worker, standing.attempt, LACKING_EVERY_S if ended else UNCERTAIN_EVERY_S)
        self._outbox.hurry()
        return None

    async def _withdraw(self, exchange: Exchange, leaving: str) -> None:
        assert exchange.submission is not None
        refused = isinstance(await exchange.submission, QueueFull | RequestCancelled | DeadlineExceeded)
        if refused and not exchange.known_as:
            return
        while True:
            if leaving and (others := self.exchanges.get(exchange.id)):
                others[-1].owned = True  # came while this one was still being submitted, or withdrawn
                return
            try:
                await self._pool.cancel(exchange.id, leaving)
                return
            except Exception as error:
                if not isinstance(error, LlmError):
                    self.internal_errors.note("cancelling of a request", error)
                if asyncio.get_running_loop().time() > exchange.deadline:
                    return  # the pool ends it by itself
                await asyncio.sleep(_CANCEL_AGAIN_S)

    def _listener(self, request_id: str) -> Listener:
        return Listener(partial(self._hear_all, request_id), partial(self._miss_all, request_id))

    def _hear_all(self, request_id: str, data: bytes) -> None:
        for exchange in tuple(self.exchanges.get(request_id, ())):
            self._hear(exchange, data)

    def _hear(self, exchange: Exchange, data: bytes) -> None:
        delivery, message = exchange.delivery, channel_message(data)
        if isinstance(message, Attached):
            exchange.owned &= message.client == self._client
            return
        before = (delivery.attempt, delivery.position)
        answer = delivery.receive(message)
        if not exchange.owned:
            answer = None  # its owner answers
        exchange.heard(asyncio.get_running_loop().time(), progress=before != (delivery.attempt, delivery.position))
        if isinstance(message, Progressed):
            exchange.waiting = f"lane {message.lane!r}: {message.progress.step}"
        if answer is not None:
            self._outbox.answer(answer)
        if exchange.question is not None:
            self._outbox.hurry()
        if delivery.ended:
            self.abandon(exchange)
        exchange.changed.set()

    def _miss_all(self, request_id: str) -> None:
        for exchange in self.exchanges.get(request_id, ()):
            exchange.missed()
        self._outbox.hurry()

    def _expire(self, exchange: Exchange) -> None:
        exchange.delivery.fail(DeadlineExceeded())
        self.abandon(exchange)

    def _channel(self, exchange: Exchange) -> str:
        return self._pool.keys.deltas(exchange.id)
