"""The link to a pool in Redis: takes a client's requests there, and what comes back to them.

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
from tokenlane.routing.store.requests import Ending
from tokenlane.routing.support.telemetry import inject, sending

from .delta_buffer import DeltaBuffer
from .open_request import LACKING_EVERY_S, UNCERTAIN_EVERY_S, OpenRequest
from .ready_channels import Ahead
from .worker_messages import WorkerMessages

__all__ = ["RedisLink"]

logger = logging.getLogger(__name__)

_DEADLINE_GRACE_S = 2.0
_ENDED_LEFT_MS = 30_000
_GOODBYE_S = 2.0
_MOST_BEING_SENT = 256
_CANCEL_AGAIN_S = 0.5


class RedisLink:
    """All open requests of one client: `requests` has them by request, several if it is read more than once."""

    def __init__(self, pool: Pool, hub: Hub, tasks: asyncio.TaskGroup, client: str) -> None:
        self.requests: dict[str, list[OpenRequest]] = {}
        self.idle_reason: str | None = None
        self.internal_errors = pool.internal_errors
        self._pool = pool
        self._hub = hub
        self._tasks = tasks
        self._client = client
        self._withdrawals: set[asyncio.Task[None]] = set()
        self._worker_messages = WorkerMessages(pool, self.requests)
        self._closed = False

    def __iter__(self) -> Iterator[OpenRequest]:
        return iter([request for those in self.requests.values() for request in those])

    @property
    def held(self) -> int:
        """How many requests the pool may have that are this client's."""
        return sum(any(request.owned for request in those) for those in self.requests.values())

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
    ) -> OpenRequest:
        """Submit a request; returns when the pool has accepted it.

        Args:
            asked_at: what `turn` gave; None: now.

        If the agent has submitted the idempotency key before, it is the running request that has it.

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
            request = self._entry(DeltaBuffer(envelope.id), envelope.role, (envelope, payload))
            self._limit(request, envelope.time_to_live_ms, asked_at)
            await self._enter(request, partial(self._submit, request))
        if request.known_as == request.id:
            return request
        request.owned = False
        self.abandon(request)
        return await self.attach(request.known_as)

    async def attach(self, request_id: str, position: int = 0) -> OpenRequest:
        """Join a request, from that position of its answer on, and own it from now on.

        Raises:
            RequestLost: the pool does not know it.
            BadRequest: its answer has ended before that position.
            PoolUnavailable: the server does not answer.

        Cancellation: the request is cancelled if this client owns it by then.
        """
        request = self._entry(DeltaBuffer(request_id, position=position), "", None)
        await self._enter(request, partial(self._take_over, request))
        return request

    def abandon(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        """End a request now; have the pool told if the request has not ended there. May be called again.

        Args:
            everywhere: end the request even if others read it, or own it.
        """
        if not request.buffer.ended:
            request.buffer.fail(RequestCancelled())
        request.waiting = None
        request.changed.set()
        others = self.requests.get(request.id, [])
        if request not in others:
            return
        others.remove(request)
        if request.timer is not None:
            request.timer.cancel()
        if not others:
            del self.requests[request.id]
            self._hub.unsubscribe(self._channel(request))
        if request.submission is None or (request.buffer.settled and request.submission.done()):
            return
        if everywhere or (request.owned and not others):
            request.withdrawal = self._tasks.create_task(self._withdraw(request, "" if everywhere else self._client))
            self._withdrawals.add(request.withdrawal)
            request.withdrawal.add_done_callback(self._withdrawals.discard)
        elif request.owned:
            others[-1].owned = True

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        """End a request; returns when the pool has heard it, or after 2 s: it will be told then when it can be.

        Cancellation: the pool is told all the same.
        """
        self.abandon(request, everywhere=everywhere)
        if request.withdrawal is not None:
            await asyncio.wait({request.withdrawal}, timeout=_GOODBYE_S)

    @asynccontextmanager
    async def asking(
        self, envelope: Envelope, payload: bytes, idempotency_key: str | None = None
    ) -> AsyncIterator[OpenRequest]:
        """A request that is no chat, submitted; leaving the block before its end cancels it.

        Raises:
            LlmError: as `open`.
        """
        async with self.turn() as asked_at:
            request = await self.open(envelope, payload, idempotency_key, asked_at)
        try:
            yield request
        finally:
            await self.close(request)

    async def lanes(self) -> tuple[LaneView, ...]:
        """The pool's lanes as routers see them.

        Raises:
            PoolUnavailable: the server does not answer.
        """
        return (await self._pool.survey()).lanes

    async def send_again(self, request: OpenRequest) -> Exception | None:
        """Submit a request again that the pool has lost; the error, if any. It may be abandoned by then."""
        request.submission = self._tasks.create_task(self._outcome(self._submit_again(request)))
        return await asyncio.shield(request.submission)

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request, whoever reads it; False if it has ended otherwise, or the pool does not know it.

        Raises:
            PoolUnavailable: the server does not answer.
        """
        return await self._pool.requests.cancel(request_id) in ("cancelled", "flagged")

    # What the client calls.

    async def close_all(self) -> bool:
        """End all requests; whether the pool has heard of each within 2 s."""
        self._closed = True
        for request in self:
            self.abandon(request)
        if not self._withdrawals:
            return True
        _, untold = await asyncio.wait(self._withdrawals, timeout=_GOODBYE_S)
        return not untold

    async def subscribe_ahead(self) -> None:
        """Keep channels ready for requests to come, for ever."""
        await self.ahead.run(self._hub, self._pool.keys.deltas, self._listener)

    async def speak(self) -> None:
        """Send what is to be said to workers, for ever."""
        await self._worker_messages.run()

    # The rest.

    def _entry(self, buffer: DeltaBuffer, role: str, copy: tuple[Envelope, bytes] | None) -> OpenRequest:
        if self._closed:
            raise RequestCancelled("the client is being closed")
        now = asyncio.get_running_loop().time()
        request = OpenRequest(buffer.request_id, role, copy, buffer, float("inf"), now, self._why(role), opened_at=now)
        self.requests.setdefault(request.id, []).append(request)
        return request

    def _why(self, role: str) -> str:
        return self.idle_reason or f"waiting in the queue of role {role!r}"

    def _limit(self, request: OpenRequest, time_to_live_ms: int, since: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        request.deadline = (loop.time() if since is None else since) + time_to_live_ms / 1000 + _DEADLINE_GRACE_S
        request.timer = loop.call_at(request.deadline, self._expire, request)

    async def _enter(self, request: OpenRequest, submit: Callable[[], Coroutine[None, None, LlmError | None]]) -> None:
        try:
            await self._subscribe(request)
            if request.buffer.error is not None:
                raise request.buffer.error
            # A task of its own, so that an agent cancelled meanwhile leaves no doubt whether the request got there.
            request.submission = self._tasks.create_task(self._outcome(submit()))
            error = await asyncio.shield(request.submission)
            if error is not None:
                raise error
        except BaseException:
            self.abandon(request)
            raise

    async def _outcome(self, submitting: Coroutine[None, None, LlmError | None]) -> Exception | None:
        try:
            return await submitting
        except Exception as error:  # ends this request, and no other
            self.internal_errors.note("sending of a request", error)
            return error

    async def _subscribe(self, request: OpenRequest) -> None:
        if len(self.requests[request.id]) > 1:
            return
        if self.ahead.subscribed(request.id):
            return
        await self._hub.subscribe(self._channel(request), *self._listener(request.id))

    async def _submit(self, request: OpenRequest) -> LlmError | None:
        """Its time to live counts from when the agent asked: what has passed since is taken off."""
        assert request.copy is not None
        envelope, payload = request.copy
        left_s = request.deadline - _DEADLINE_GRACE_S - asyncio.get_running_loop().time()
        if left_s <= 0:
            return DeadlineExceeded()
        envelope = envelope.model_copy(update={"time_to_live_ms": math.ceil(1000 * left_s)})
        try:
            accepted = await self._pool.requests.submit(envelope, payload, request.buffer.attempt)
        except LlmError as error:
            return error
        request.known_as = accepted.id
        return None

    async def _submit_again(self, request: OpenRequest) -> LlmError | None:
        error = await self._submit(request)
        if error is not None:
            return error
        if request.known_as == request.id:
            request.owned = True
            return None
        return RequestLost(
            "the pool lost this request, and has another with its idempotency key now: ask again to join that one"
        )

    async def _take_over(self, request: OpenRequest) -> LlmError | None:
        try:
            held = await self._pool.requests.attach(self._client, request.id)
        except LlmError as error:
            return error
        standing, buffer = held.standing, request.buffer
        if standing.state == "missing":
            return RequestLost(
                f"the pool knows no request {request.id}: it ended an hour ago, was lost or never was; ask again"
            )
        if standing.end is not None and (beyond := buffer.beyond(standing.end)) is not None:
            return beyond
        for other in self.requests.get(request.id, ()):
            other.owned = other is request
        if buffer.ended:  # by what came on its channel meanwhile
            return None
        ended = standing.state in get_args(Ending)
        request.role = held.role
        request.waiting = None if ended or standing.state == "running" else self._why(held.role)
        self._limit(request, max(held.left_ms, _ENDED_LEFT_MS if ended else 0))
        buffer.attempt = max(buffer.attempt, standing.attempt)
        request.missed()
        request.ask(standing.worker, standing.attempt, LACKING_EVERY_S if ended else UNCERTAIN_EVERY_S)
        self._worker_messages.hurry()
        return None

    async def _withdraw(self, request: OpenRequest, leaving: str) -> None:
        assert request.submission is not None
        refused = isinstance(await request.submission, QueueFull | RequestCancelled | DeadlineExceeded)
        if refused and not request.known_as:
            return
        while True:
            if leaving and (others := self.requests.get(request.id)):
                others[-1].owned = True  # came while this one was still being submitted, or withdrawn
                return
            try:
                await self._pool.requests.cancel(request.id, leaving)
                return
            except Exception as error:
                if not isinstance(error, LlmError):
                    self.internal_errors.note("cancelling of a request", error)
                if asyncio.get_running_loop().time() > request.deadline:
                    return  # the pool ends it by itself
                await asyncio.sleep(_CANCEL_AGAIN_S)

    def _listener(self, request_id: str) -> Listener:
        return Listener(partial(self._hear_all, request_id), partial(self._miss_all, request_id))

    def _hear_all(self, request_id: str, data: bytes) -> None:
        for request in tuple(self.requests.get(request_id, ())):
            self._hear(request, data)

    def _hear(self, request: OpenRequest, data: bytes) -> None:
        buffer, message = request.buffer, channel_message(data)
        if isinstance(message, Attached):
            request.owned &= message.client == self._client
            return
        before = (buffer.attempt, buffer.position)
        answer = buffer.receive(message)
        if not request.owned:
            answer = None  # its owner answers
        request.heard(asyncio.get_running_loop().time(), progress=before != (buffer.attempt, buffer.position))
        if isinstance(message, Progressed):
            request.waiting = f"lane {message.lane!r}: {message.progress.step}"
        if answer is not None:
            self._worker_messages.answer(answer)
        if request.question is not None:
            self._worker_messages.hurry()
        if buffer.ended:
            self.abandon(request)
        request.changed.set()

    def _miss_all(self, request_id: str) -> None:
        for request in self.requests.get(request_id, ()):
            request.missed()
        self._worker_messages.hurry()

    def _expire(self, request: OpenRequest) -> None:
        request.buffer.fail(DeadlineExceeded())
        self.abandon(request)

    def _channel(self, request: OpenRequest) -> str:
        return self._pool.keys.deltas(request.id)
