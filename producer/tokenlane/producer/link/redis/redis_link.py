"""A client's link to a pool in Redis: submits requests, and delivers their messages to the readers.

The link keeps each request from its submission until the pool has ended it, even after its reader has left: it tries to
cancel a request without a reader until the pool has cancelled it or the request's deadline has passed.

A request may have several readers, in this process and in others. The latest reader owns the request. The others only
listen: if they leave, nothing is cancelled, and they do not answer later attempts that ask for their position.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeAlias, TypeVar

from pydantic import ValidationError

from tokenlane.producer.link.link import Composed
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError, PoolUnavailable, RequestCancelled, RequestLost
from tokenlane.routing.contract.messages import channel_message
from tokenlane.routing.decide.lanes.fallback_lane import of_model_servers
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.server.command_limits import PrioritySemaphore
from tokenlane.routing.store.server.errors import is_unreachable
from tokenlane.routing.telemetry import inject, sending

from .pool_view import PoolView
from .redis_request import RedisRequest
from .request_state import RequestState
from .timings import Timings
from .worker_messages import WorkerMessages

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_BEING_SENT = 256

_Send: TypeAlias = Callable[[RedisRequest], Awaitable[str]]
"""Sends a request; returns the id under which the pool has it."""


class RedisLink:
    """A `Link`.

    Attributes:
        view: the state of the pool in the reply to the last beat.
        worker_messages: the messages to workers; their `run` must run while the link is open.

    Args:
        tasks: the task group in which each request gets a task.
    """

    def __init__(self, pool: Pool, hub: Hub, tasks: asyncio.TaskGroup, client: str, timings: Timings) -> None:
        self.client = client
        self.pool = str(pool)
        self.internal_errors = pool.internal_errors
        self.view = PoolView(timings, self.pool)
        self._pool = pool
        self._hub = hub
        self._tasks = tasks
        self._timings = timings
        self._clock = asyncio.get_running_loop().time
        self._requests: dict[str, list[RedisRequest]] = {}
        self._kept: dict[RedisRequest, asyncio.Task[None]] = {}
        self.worker_messages = WorkerMessages(pool, self, self._clock)
        self._turns = PrioritySemaphore(_MOST_BEING_SENT)
        self._closed = False

    def __iter__(self) -> Iterator[RedisRequest]:
        """All open requests, one for each reader."""
        return iter([request for readers in self._requests.values() for request in readers])

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    @property
    def held(self) -> int:
        """How many requests the pool may have under this client's name."""
        return sum(any(request.owned for request in readers) for readers in self._requests.values())

    # What makes it a `Link`.

    async def open(self, compose: Callable[[], Composed], idempotency_key: str | None = None) -> RedisRequest:
        async with self._turn() as asked_at:
            envelope, payload = compose()
            if idempotency_key:
                fingerprint = self._pool.keychain.fingerprint(idempotency_key)
                envelope = envelope.model_copy(update={"idempotency": fingerprint})
            with sending(envelope.role, envelope.id) as span:
                if context := inject(span):
                    envelope = envelope.model_copy(update={"trace": context})
                request = RedisRequest(
                    envelope.id,
                    self.client,
                    self._timings,
                    self._clock,
                    copy=(envelope, payload),
                    deadline=asked_at + envelope.time_to_live_ms / 1000 + self._timings.deadline_grace_s,
                    waiting=self.view.why_queued(envelope.role),
                )
                accepted_as = await self._enter(request, self._submit)
            if accepted_as == request.id:
                return request
            request.own(here=False)
            self.leave(request)
            return await self.attach(accepted_as)

    async def attach(self, request_id: str, position: int = 0) -> RedisRequest:
        request = RedisRequest(request_id, self.client, self._timings, self._clock, position=position)
        await self._enter(request, self._take_over)
        return request

    async def cancel(self, request_id: str) -> bool:
        return await self._insist(lambda: self._pool.requests.cancel(request_id)) in ("cancelled", "flagged")

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        assert isinstance(request, RedisRequest)
        readers = self._requests.get(request.id, [])
        if request not in readers:
            return
        readers.remove(request)
        if not readers:
            del self._requests[request.id]
            self._hub.unsubscribe(self._pool.keys.deltas(request.id))
        elif request.owned and not everywhere:
            request.own(here=False)
            readers[-1].own(here=True)
        request.leave(everywhere=everywhere)

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        assert isinstance(request, RedisRequest)
        self.leave(request, everywhere=everywhere)
        if request in self._kept:
            await self._wait_for_ends([request])

    async def lanes(self) -> tuple[LaneView, ...]:
        return of_model_servers((await self._pool.survey()).lanes)

    # What the heartbeat calls.

    async def send_again(self, request: RedisRequest) -> None:
        """Submit a request that the pool has lost.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        if request.state is not RequestState.MISSING:
            return  # a message of it has come by now
        outcome = await self._send(request, self._submit)
        error = outcome if isinstance(outcome, Exception) else None
        if error is None and outcome != request.id:
            error = RequestLost(
                "the pool lost this request, and has another with its idempotency key now: ask again to join that one"
            )
        request.sent_again(error)
        if isinstance(error, PoolUnavailable):
            raise error

    async def close_all(self) -> bool:
        """Cancel all requests. Returns whether the pool has ended each of them in time."""
        self._closed = True
        for request in self:
            self.leave(request)
        return not self._kept or await self._wait_for_ends(self._kept)

    async def _wait_for_ends(self, left: Collection[OpenRequest]) -> bool:
        """Wait until the pool has ended these requests, but at most until `goodbye_s` after the last of them was left.

        Returns:
            Whether the pool has ended all of them.
        """
        tasks = {request: task for request, task in self._kept.items() if request in left}
        until = max(request.left_at for request in tasks) + self._timings.goodbye_s
        _, unheard = await asyncio.wait(tasks.values(), timeout=max(0.0, until - self._clock()))
        return not unheard

    # The life of a request.

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[float]:
        """Wait for a turn to compose and send a request; yields when the wait began."""
        asked_at = self._clock()
        await self._turns.acquire()
        sent_at = self._clock()
        try:
            yield asked_at
        except PoolUnavailable as error:
            report = error.report()
            self._turns.fail_waiters(sent_at, lambda: LlmError.from_report(report))
            raise
        finally:
            self._turns.release()

    async def _enter(self, request: RedisRequest, send: _Send) -> str:
        """Subscribe to the request's channel and send it; returns the id under which the pool has it."""
        if self._closed:
            raise RequestCancelled("the client is being closed")
        readers = self._requests.setdefault(request.id, [])
        readers.append(request)
        try:
            if len(readers) == 1:
                hear, miss = partial(self._hear, request.id), partial(self._miss, request.id)
                await self._hub.subscribe(self._pool.keys.deltas(request.id), hear, miss)
            if request.error is not None:
                raise request.error
            # In a task of its own: if the agent is cancelled meanwhile, the link still learns whether the pool has it.
            outcome: asyncio.Future[str | Exception] = asyncio.get_running_loop().create_future()
            self._kept[request] = task = self._tasks.create_task(self._keep(request, send, outcome))
            task.add_done_callback(lambda _: self._kept.pop(request))
            accepted_as = await outcome
            if isinstance(accepted_as, Exception):
                raise accepted_as
        except BaseException as error:
            self.leave(request)
            if isinstance(error, LlmError):
                error.at(request_id=request.id)
            raise
        return accepted_as

    async def _keep(self, request: RedisRequest, send: _Send, outcome: asyncio.Future[str | Exception]) -> None:
        """Send the request, wait until its reader has gone or its time is up, and cancel it unless it has ended."""
        sent = await self._send(request, lambda it: self._insist(lambda: send(it), it.left))
        if not outcome.cancelled():
            outcome.set_result(sent)
        try:
            async with asyncio.timeout_at(request.deadline):
                await request.left.wait()
        except TimeoutError:
            request.give_up(DeadlineExceeded())
            self.leave(request)
        if request.is_to_be_cancelled:
            await self._cancel_in_pool(request)

    async def _send(self, request: RedisRequest, send: _Send) -> str | Exception:
        """Send the request; returns the id under which the pool has it, or why the pool does not."""
        try:
            with request.sending():
                return await send(request)
        except Exception as error:  # ends this request, and no other
            if not isinstance(error, LlmError):
                self.internal_errors.record("sending of a request", error)
            return error

    async def _insist(self, call: Callable[[], Awaitable[T]], left: asyncio.Event | None = None) -> T:
        """Repeat the call while the server is away or refuses for the moment, for as long as a subscription waits.

        Args:
            left: set when nobody waits for the call any more.

        Raises:
            PoolUnavailable: the time is over, or waiting does not help.
        """
        until = self._clock() + self._timings.server_patience_s
        left = left or asyncio.Event()
        while True:
            try:
                return await call()
            except PoolUnavailable as error:
                may_pass = error.retryable or is_unreachable(error)
                if not may_pass or left.is_set() or self._clock() >= until:
                    raise
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timings.again_s):
                    await left.wait()

    async def _submit(self, request: RedisRequest) -> str:
        return await self._pool.requests.submit(*request.to_send())

    async def _take_over(self, request: RedisRequest) -> str:
        request.attached(await self._pool.requests.attach(self.client, request.id), self.view)
        for reader in self._requests.get(request.id, ()):
            reader.own(here=reader is request)
        self.worker_messages.hurry()
        return request.id

    async def _cancel_in_pool(self, request: RedisRequest) -> None:
        while True:
            if not request.for_all and (readers := self._requests.get(request.id)):
                readers[-1].own(here=True)  # a reader that came while this one was still being sent or cancelled
                return
            try:
                await self._pool.requests.cancel(request.id, "" if request.for_all else self.client)
                return
            except Exception as error:
                if not isinstance(error, LlmError):
                    self.internal_errors.record("cancelling of a request", error)
                if request.deadline is not None and self._clock() > request.deadline:
                    return  # the pool ends it by itself
                await asyncio.sleep(self._timings.again_s)

    # What comes.

    def _hear(self, request_id: str, data: bytes) -> None:
        for request in tuple(self._requests.get(request_id, ())):
            try:
                message = channel_message(data)  # parsed anew for each reader, since the request changes the deltas
            except ValidationError:  # anybody may write to the channel; positions reveal a gap in the answer
                logger.warning("a message of %d bytes about %s could not be read", len(data), request_id)
                return
            handover = request.message(message)
            if handover is not None:
                self.worker_messages.hand_over(handover)
            elif request.wants_replay:
                self.worker_messages.hurry()
            if request.ended:
                self.leave(request)

    def _miss(self, request_id: str) -> None:
        for request in self._requests.get(request_id, ()):
            request.messages_lost()
        self.worker_messages.hurry()
