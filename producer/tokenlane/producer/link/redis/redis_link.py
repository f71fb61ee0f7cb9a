"""The link to a pool in Redis: takes a client's requests there, and what comes back to them.

It keeps every request from the moment it is submitted until the pool knows its end, longer than the agent if need be: a
request nobody waits for any more is cancelled, again and again until the server has heard it or its time is up.

Several may read one request, here and in other processes. One of them owns it: the one that came last. The others only
listen: leaving cancels nothing, and later attempts are not told how far they have got.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

from pydantic import ValidationError

from tokenlane.producer.link.link import Composed, Timings
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError, PoolUnavailable, RequestCancelled, RequestLost
from tokenlane.routing.contract.messages import channel_message
from tokenlane.routing.decide.lanes.fallback import of_back_ends
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.store.hub import Hub, Listener
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.server.command_turns import Turns
from tokenlane.routing.telemetry import inject, sending

from .pool_view import PoolView
from .ready_channels import Ahead
from .redis_request import RedisRequest
from .request_state import RequestState
from .worker_messages import WorkerMessages

logger = logging.getLogger(__name__)

_MOST_BEING_SENT = 256

_Send: TypeAlias = Callable[[RedisRequest], Coroutine[None, None, str]]
"""Sends a request; the id under which the pool has it."""


class RedisLink:
    """A `Link`. `view`: the pool as the client's beat has shown it last."""

    def __init__(self, pool: Pool, hub: Hub, tasks: asyncio.TaskGroup, client: str, timings: Timings) -> None:
        self.client = client
        self.internal_errors = pool.internal_errors
        self.view = PoolView(timings)
        self._pool = pool
        self._hub = hub
        self._tasks = tasks
        self._timings = timings
        self._clock = asyncio.get_running_loop().time
        self._requests: dict[str, list[RedisRequest]] = {}
        self._kept: dict[OpenRequest, asyncio.Task[None]] = {}
        self._ready_channels = Ahead()
        self._turns = Turns(_MOST_BEING_SENT)
        self._worker_messages = WorkerMessages(pool, self, self._clock)
        self._closed = False

    def __iter__(self) -> Iterator[RedisRequest]:
        """All that is open here; a request that is read more than once is there more than once."""
        return iter([request for readers in self._requests.values() for request in readers])

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    @property
    def held(self) -> int:
        """How many requests the pool may have that are this client's."""
        return sum(any(request.owned for request in readers) for readers in self._requests.values())

    # What makes it a `Link`.

    def take_id(self) -> str:
        return self._ready_channels.take()

    def give_back_id(self, request_id: str) -> None:
        self._ready_channels.give_back(request_id)

    async def open(self, compose: Callable[[], Composed], idempotency_key: str | None = None) -> RedisRequest:
        async with self._turn() as asked_at:
            envelope, payload = compose()
            if idempotency_key:
                fingerprint = self._pool.keychain.fingerprint(idempotency_key)
                envelope = envelope.model_copy(update={"idempotency": fingerprint})
            with sending(envelope.role, envelope.id) as span:
                if context := inject(span):
                    envelope = envelope.model_copy(update={"trace": context})
                request = self._new(
                    envelope.id,
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
        request = self._new(request_id, position=position)
        await self._enter(request, self._take_over)
        return request

    async def cancel(self, request_id: str) -> bool:
        return await self._pool.requests.cancel(request_id) in ("cancelled", "flagged")

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        readers = self._requests.get(request.id, [])
        for reader in readers:
            if reader is request:
                readers.remove(reader)
                if not readers:
                    del self._requests[reader.id]
                    self._hub.unsubscribe(self._channel(reader.id))
                elif reader.owned and not everywhere:
                    reader.own(here=False)
                    readers[-1].own(here=True)
                reader.leave(everywhere=everywhere)
                return

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        self.leave(request, everywhere=everywhere)
        if (task := self._kept.get(request)) is not None:
            await asyncio.wait({task}, timeout=self._timings.goodbye_s)

    async def lanes(self) -> tuple[LaneView, ...]:
        return of_back_ends((await self._pool.survey()).lanes)

    # What the heartbeat calls.

    async def send_again(self, request: RedisRequest) -> None:
        """Submit a request again that the pool has lost.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        if request.state is not RequestState.MISSING:
            return  # something of it has come by now
        error = await self._send(request, self._submit)
        if error is None and await request.submission.answered() != request.id:
            error = RequestLost(
                "the pool lost this request, and has another with its idempotency key now: ask again to join that one"
            )
        request.sent_again(error)
        if isinstance(error, PoolUnavailable):
            raise error

    # What opens it.

    async def keep_channels_ready(self) -> None:
        """Subscribe to channels for requests to come, for ever."""
        await self._ready_channels.run(self._hub, self._channel, self._listener)

    async def send_messages(self) -> None:
        """Send what is to be said to workers, for ever."""
        await self._worker_messages.run()

    async def close_all(self) -> bool:
        """End all requests; whether the pool has heard of each in time."""
        self._closed = True
        for request in self:
            self.leave(request)
        if not self._kept:
            return True
        _, unheard = await asyncio.wait(self._kept.values(), timeout=self._timings.goodbye_s)
        return not unheard

    # The life of a request.

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[float]:
        """Wait for a turn to make and send a request; yields when the wait began."""
        asked_at = self._clock()
        await self._turns.take()
        sent_at = self._clock()
        try:
            yield asked_at
        except PoolUnavailable as error:
            report = error.report()
            self._turns.give_up(sent_at, lambda: LlmError.from_report(report))
            raise
        finally:
            self._turns.give_back()

    def _new(
        self,
        request_id: str,
        *,
        copy: Composed | None = None,
        deadline: float | None = None,
        position: int = 0,
        waiting: str | None = None,
    ) -> RedisRequest:
        if self._closed:
            raise RequestCancelled("the client is being closed")
        request = RedisRequest(
            request_id,
            self.client,
            self._timings,
            self._clock,
            copy=copy,
            deadline=deadline,
            position=position,
            waiting=waiting,
        )
        self._requests.setdefault(request_id, []).append(request)
        return request

    async def _enter(self, request: RedisRequest, send: _Send) -> str:
        """Subscribe to its channel and send it; the id under which the pool has it."""
        try:
            if len(self._requests[request.id]) == 1 and not self._ready_channels.subscribed(request.id):
                await self._hub.subscribe(self._channel(request.id), *self._listener(request.id))
            if request.error is not None:
                raise request.error
            # A task of its own, so that an agent cancelled meanwhile leaves no doubt whether the request got there.
            self._kept[request] = task = self._tasks.create_task(self._keep(request, send))
            task.add_done_callback(lambda _: self._kept.pop(request))
            return await request.submission.answered()
        except BaseException:
            self.leave(request)
            raise

    async def _keep(self, request: RedisRequest, send: _Send) -> None:
        """Send it, wait until its reader has gone or its time is up, and cancel it if it has not ended by then."""
        await self._send(request, send)
        try:
            async with asyncio.timeout_at(request.deadline):
                await request.left()
        except TimeoutError:
            request.give_up(DeadlineExceeded())
            self.leave(request)
        if request.is_to_be_cancelled:
            await self._cancel_there(request)

    async def _send(self, request: RedisRequest, send: _Send) -> Exception | None:
        """Send it, for the first time or again; why the pool does not have it now."""
        request.submission.begin()
        try:
            request.submission.accepted(await send(request))
        except Exception as error:  # ends this request, and no other
            if not isinstance(error, LlmError):
                self.internal_errors.note("sending of a request", error)
            request.submission.refused(error)
            return error
        return None

    async def _submit(self, request: RedisRequest) -> str:
        return (await self._pool.requests.submit(*request.to_send())).id

    async def _take_over(self, request: RedisRequest) -> str:
        request.attached(await self._pool.requests.attach(self.client, request.id), self.view)
        for reader in self._requests.get(request.id, ()):
            reader.own(here=reader is request)
        self._worker_messages.hurry()
        return request.id

    async def _cancel_there(self, request: RedisRequest) -> None:
        while True:
            if not request.for_all and (readers := self._requests.get(request.id)):
                readers[-1].own(here=True)  # came while this one was still being submitted, or cancelled
                return
            try:
                await self._pool.requests.cancel(request.id, "" if request.for_all else self.client)
                return
            except Exception as error:
                if not isinstance(error, LlmError):
                    self.internal_errors.note("cancelling of a request", error)
                if request.deadline is not None and self._clock() > request.deadline:
                    return  # the pool ends it by itself
                await asyncio.sleep(self._timings.cancel_again_s)

    # What comes.

    def _listener(self, request_id: str) -> Listener:
        return Listener(partial(self._hear, request_id), partial(self._miss, request_id))

    def _hear(self, request_id: str, data: bytes) -> None:
        for request in tuple(self._requests.get(request_id, ())):
            try:
                message = channel_message(data)  # each reader's own: the request changes the deltas
            except ValidationError:  # anybody may write to the channel; a gap in the answer is found by positions
                logger.warning("a message of %d bytes about %s could not be read", len(data), request_id)
                return
            reply = request.message(message)
            if reply is not None:
                self._worker_messages.reply(reply)
            elif request.has_question:
                self._worker_messages.hurry()
            if request.ended:
                self.leave(request)

    def _miss(self, request_id: str) -> None:
        for request in self._requests.get(request_id, ()):
            request.messages_lost()
        self._worker_messages.hurry()

    def _channel(self, request_id: str) -> str:
        return self._pool.keys.deltas(request_id)
