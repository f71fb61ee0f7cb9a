"""The link of a `MockPool`: takes no request anywhere, but has it answered in a task here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from tokenlane.producer.link.delta_buffer import DeltaBuffer
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.producer.link.redis_link import RedisLink
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError, RequestCancelled, RequestLost
from tokenlane.routing.contract.messages import Envelope
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.support.tasks import InternalErrors

from .mock_messages import Spoken

__all__ = ["MemoryLink"]


class MemoryLink(RedisLink):
    """Of all clients of a `MockPool`. `ask` notes a request, and gives the messages that answer it. `failure`: the
    first error, other than an `LlmError`, that a handler ended with."""

    def __init__(self, tasks: asyncio.TaskGroup, ask: Callable[[Envelope, bytes], Spoken]) -> None:
        self.requests, self._tasks, self._ask, self.internal_errors = {}, tasks, ask, InternalErrors()
        self._answers = dict[str, asyncio.Task[None]]()
        self.failure: Exception | None = None

    async def open(self, envelope: Envelope, payload: bytes, *_: object) -> OpenRequest:
        request = OpenRequest(envelope.id, envelope.role, None, DeltaBuffer(envelope.id), float("inf"), 0)
        answer = self._tasks.create_task(self._answer(request, self._ask(envelope, payload)))
        self.requests[request.id], self._answers[request.id] = [request], answer
        answer.add_done_callback(lambda _: self._over(request, RequestCancelled("the MockPool's handler broke off")))
        left_s = envelope.time_to_live_ms / 1000
        request.timer = asyncio.get_running_loop().call_later(left_s, self._over, request, DeadlineExceeded())
        return request

    async def attach(self, request_id: str, position: int = 0) -> OpenRequest:
        raise RequestLost("a MockPool has no requests to attach to")

    async def lanes(self) -> tuple[LaneView, ...]:
        return ()

    async def cancel(self, request_id: str) -> bool:
        requests = self.requests.get(request_id, [])
        for request in requests:
            self.abandon(request)
        return any(isinstance(request.buffer.error, RequestCancelled) for request in requests)

    def abandon(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        self._over(request, RequestCancelled())

    async def _answer(self, request: OpenRequest, messages: Spoken) -> None:
        try:
            async with aclosing(messages):
                async for message in messages:
                    request.buffer.receive(message)
                    request.changed.set()
                    await asyncio.sleep(0)  # so that its reader may cancel it
                    if request.buffer.ended:
                        return
        except LlmError as error:
            request.buffer.fail(error)
        except Exception as error:
            self.failure = self.failure or error
            raise

    def _over(self, request: OpenRequest, error: LlmError) -> None:
        request.buffer.fail(error)
        request.changed.set()
        self._answers[request.id].cancel()
        if request.timer is not None:
            request.timer.cancel()
