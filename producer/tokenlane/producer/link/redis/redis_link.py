"""A client's link to a pool in Redis: submits requests, and delivers their messages to the readers.

The link has a task for each request, from its submission until the pool has ended it. When the reader of a request has
left, the task tries to cancel the request until the pool has done so or the request's deadline has passed.

A request may have several readers, in this process and in others. The latest reader owns the request. The others only
listen: the request goes on if they leave, and they do not answer later attempts that ask for their position.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias, TypeVar

from pydantic import ValidationError

from tokenlane.producer.link.link import Composed
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable, RequestCancelled, RequestLost
from tokenlane.routing.contract.messages import channel_message
from tokenlane.routing.decide.lanes.fallback_lane import of_model_servers
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.wait_cause import WaitingRequest
from tokenlane.routing.store.hub import Hub
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.server.command_limits import PrioritySemaphore
from tokenlane.routing.telemetry.request import RequestSpan, attaching, sending

from .pool_view import PoolView
from .redis_request import RedisRequest
from .request_state import RequestState
from .retry import retry_while_away
from .sealed_requests import SealedRequests
from .timings import Timings
from .worker_messages import WorkerMessages

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_BEING_SENT = 256

_Send: TypeAlias = Callable[[RedisRequest], Awaitable[str]]
"""Sends a request. Returns the id of the request that the pool accepted: an earlier one if it has the same key."""


class RedisLink:
    """A `Link` to a pool in Redis. Iterating over it yields all open requests, one for each reader.

    Attributes:
        view: the client's view of the pool.
        worker_messages: sends the client's messages to workers; its `run` must run while the link is open.

    Args:
        tasks: the group in which each request gets a task.
    """

    def __init__(self, pool: Pool, hub: Hub, tasks: asyncio.TaskGroup, client: str, timings: Timings) -> None:
        self.client = client
        self.pool = str(pool)
        self.internal_errors = pool.internal_errors
        self.view = PoolView(timings, pool.keys.pool, self.pool)
        self._pool = pool
        self._hub = hub
        self._tasks = tasks
        self._timings = timings
        self._clock = asyncio.get_running_loop().time
        self._requests: dict[str, list[RedisRequest]] = {}
        self._request_tasks: dict[RedisRequest, asyncio.Task[None]] = {}
        self._sealed = SealedRequests(pool.keychain)
        self.worker_messages = WorkerMessages(pool, self, self._sealed, self._clock)
        self._semaphore = PrioritySemaphore(_MAX_BEING_SENT)
        self._closed = False
        self._let_go: set[str] = set()

    def __iter__(self) -> Iterator[RedisRequest]:
        return iter([request for readers in self._requests.values() for request in readers])

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests or request_id in self._let_go

    @property
    def owned_requests(self) -> int:
        """How many requests this client owns."""
        held = sum(any(request.owned for request in readers) for readers in self._requests.values())
        return held + len(self._let_go)

    # The methods of a `Link`.

    async def open(
        self, compose: Callable[[], Composed], idempotency_key: str | None = None, *, may_restart: bool = False
    ) -> RedisRequest:
        async with self._turn() as asked_at:
            envelope, payload = compose()
            if idempotency_key:
                fingerprint = self._pool.keychain.fingerprint(idempotency_key)
                envelope = envelope.model_copy(update={"idempotency": fingerprint})
            with sending(envelope) as (envelope, span):
                request = RedisRequest(
                    envelope.id,
                    self.client,
                    self._timings,
                    self._clock,
                    copy=(envelope, payload),
                    deadline=asked_at + envelope.time_to_live_ms / 1000 + self._timings.deadline_grace_s,
                    may_restart=may_restart,
                    waiting=self.view.explain(WaitingRequest("waiting", Queue.of(envelope))),
                )
                accepted_as = await self._enter(request, self._submit, span)
            if accepted_as == request.id:
                return request
            span.join()
            request.owned = False
            self.leave(request)
            return await self.attach(accepted_as, may_restart=may_restart)

    async def attach(self, request_id: str, position: int = 0, *, may_restart: bool = False) -> RedisRequest:
        request = RedisRequest(
            request_id, self.client, self._timings, self._clock, position=position, may_restart=may_restart
        )
        with attaching(request_id, position) as span:
            await self._enter(request, self._attach, span)
        return request

    async def cancel(self, request_id: str) -> bool:
        cancelled = await retry_while_away(lambda: self._pool.requests.cancel(request_id), self._timings)
        return cancelled in ("cancelled", "flagged")

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        assert isinstance(request, RedisRequest)
        readers = self._requests.get(request.id, [])
        if request not in readers:
            return
        readers.remove(request)
        if not readers:
            del self._requests[request.id]
            self._hub.unsubscribe(self._pool.keys.deltas(request.id))
            self._sealed.forget(request.id)
        elif request.owned and not everywhere:
            request.owned = False
            readers[-1].owned = True
        request.leave(everywhere=everywhere)

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        assert isinstance(request, RedisRequest)
        self.leave(request, everywhere=everywhere)
        if request in self._request_tasks:
            await self._wait_for_ends([request])

    async def take_over(self, request: OpenRequest) -> None:
        assert isinstance(request, RedisRequest)
        if not request.owned and not request.ended:
            await self._pool.requests.attach(self.client, request.id)
            for reader in self._requests.get(request.id, ()):
                reader.owned = reader is request

    def let_go(self, request: OpenRequest) -> None:
        assert isinstance(request, RedisRequest)
        self._let_go.add(request.id)  # even if it is not owned: a call that takes it over may be under way
        request.owned = False
        self.leave(request)

    async def lanes(self) -> tuple[LaneView, ...]:
        return of_model_servers(await self._pool.lanes())

    # The methods that the heartbeat calls.

    async def resubmit(self, request: RedisRequest) -> None:
        """Submit a request again that the pool has lost, or of which no worker keeps the end.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        if request.state is not RequestState.MISSING:
            return  # a message of the request has arrived by now
        outcome = await self._send(request, self._submit)
        error = outcome if isinstance(outcome, Exception) else None
        if error is None and outcome != request.id:
            error = RequestLost(
                "The pool lost this request, and now has another with its idempotency key: ask again to join that one."
            )
        request.report_resubmission(error)
        if isinstance(error, PoolUnavailable):
            raise error

    async def close_all(self) -> bool:
        """Cancel all requests that were not let go. Returns whether this client owns none in the pool any more."""
        self._closed = True
        for request in self:
            self.leave(request)
        has_ended = not self._request_tasks or await self._wait_for_ends(self._request_tasks)
        return has_ended and not self._let_go

    async def _wait_for_ends(self, left: Collection[OpenRequest]) -> bool:
        """Wait until the pool has ended these requests, for at most `leave_wait_s` after the last of them was left.

        Returns:
            Whether the pool has ended all of them.
        """
        tasks = {request: task for request, task in self._request_tasks.items() if request in left}
        until = max(request.left_at for request in tasks) + self._timings.leave_wait_s
        _, unheard = await asyncio.wait(tasks.values(), timeout=max(0.0, until - self._clock()))
        return not unheard

    # The life of a request.

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[float]:
        """Wait for a turn to compose and submit a request. Yields the time at which the wait began."""
        asked_at = self._clock()
        await self._semaphore.acquire()
        sent_at = self._clock()
        try:
            yield asked_at
        except PoolUnavailable as error:
            report = error.report()
            self._semaphore.fail_waiters(sent_at, lambda: LlmError.from_report(report))
            raise
        finally:
            self._semaphore.release()

    async def _enter(self, request: RedisRequest, send: _Send, span: RequestSpan) -> str:
        """Subscribe to the request's channel and send the request. Returns the id that the pool accepted."""
        if self._closed:
            raise RequestCancelled("The client is being closed.")
        readers = self._requests.setdefault(request.id, [])
        readers.append(request)
        try:
            if len(readers) == 1:
                hear, miss = partial(self._receive, request.id), partial(self._report_reconnection, request.id)
                await self._hub.subscribe(self._pool.keys.deltas(request.id), hear, miss)
            if request.error is not None:
                raise request.error
            # A separate task: if the agent is cancelled now, the link still learns whether the pool has the request.
            outcome: asyncio.Future[str | Exception] = asyncio.get_running_loop().create_future()
            task = self._tasks.create_task(self._run_request(request, send, outcome, span))
            self._request_tasks[request] = task
            task.add_done_callback(lambda _: self._request_tasks.pop(request))
            accepted_as = await outcome
            if isinstance(accepted_as, Exception):
                raise accepted_as
        except BaseException as error:
            self.leave(request)
            if isinstance(error, LlmError):
                error.at(request_id=request.id)
            raise
        return accepted_as

    async def _run_request(
        self, request: RedisRequest, send: _Send, outcome: asyncio.Future[str | Exception], span: RequestSpan
    ) -> None:
        """Send the request, wait until its reader leaves or its deadline passes, and cancel it unless it has ended."""
        try:
            sending = partial(retry_while_away, lambda: send(request), self._timings, request.left)
            sent = await self._send(request, lambda _: sending())
            if not outcome.cancelled():
                outcome.set_result(sent)
            async with asyncio.timeout_at(request.deadline):
                await request.left.wait()
        except TimeoutError:
            request.expire()
            self.leave(request)
        finally:
            span.end(request.end)
        if request.must_be_cancelled:
            await self._cancel_in_pool(request)

    async def _send(self, request: RedisRequest, send: _Send) -> str | Exception:
        """Send the request. Returns the id of the request that the pool accepted, or the error."""
        try:
            with request.sending():
                return await send(request)
        except Exception as error:  # ends only this request
            if not isinstance(error, LlmError):
                self.internal_errors.record("sending a request", error)
            return error

    async def _submit(self, request: RedisRequest) -> str:
        return await self._pool.requests.submit(*request.submission())

    async def _attach(self, request: RedisRequest) -> str:
        request.receive_attachment(await self._pool.requests.attach(self.client, request.id))
        for reader in self._requests.get(request.id, ()):
            reader.owned = reader is request
        self.worker_messages.wake()
        return request.id

    async def _cancel_in_pool(self, request: RedisRequest) -> None:
        """Cancel the request until the pool has done so. A submission under way may arrive after the cancelling, so the
        request is then cancelled again after it."""
        while True:
            is_being_sent = request.is_being_sent
            if not request.cancels_for_all and (readers := self._requests.get(request.id)):
                readers[-1].owned = True  # another reader attached while this one was leaving
                return
            try:
                await self._pool.requests.cancel(request.id, "" if request.cancels_for_all else self.client)
                if not is_being_sent:
                    return
            except Exception as error:
                if not isinstance(error, LlmError):
                    self.internal_errors.record("cancelling a request", error)
            if request.deadline is not None and self._clock() > request.deadline:
                return  # the pool has expired the request
            await asyncio.sleep(self._timings.retry_every_s)

    # Messages from the pool.

    def _receive(self, request_id: str, data: bytes) -> None:
        opened = self._sealed.open(request_id, data)
        if opened is None:
            self._report_gap(request_id)
            return
        for request in tuple(self._requests.get(request_id, ())):
            try:
                message = channel_message(opened)  # once for each reader, since each request changes its deltas
            except ValidationError:  # not from a worker: every lost delta leaves a gap in the positions
                logger.warning("cannot parse a message of %d bytes for request %s, ignored", len(data), request_id)
                return
            handover = request.receive(message)
            if handover:
                self.worker_messages.hand_over(handover)
            elif request.replays.are_wanted:
                self.worker_messages.wake()
            if request.ended:
                self.leave(request)

    def _report_reconnection(self, request_id: str) -> None:
        for request in self._requests.get(request_id, ()):
            request.report_reconnection()
        self.worker_messages.wake()

    def _report_gap(self, request_id: str) -> None:
        for request in self._requests.get(request_id, ()):
            request.report_gap()
        self.worker_messages.wake()
