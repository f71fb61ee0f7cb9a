"""A link without a pool: a function in this process makes the messages that answer each request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from tokenlane.producer.link.link import Composed
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError, RequestCancelled, RequestLost
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.support.tasks import InternalErrors

from .mock_messages import MockMessages


class MemoryLink:
    """A `Link` that any number of clients share. It has no lanes, and clients cannot attach to its requests.

    Attributes:
        failure: the first error, other than an `LlmError`, that `answer` raised.

    Args:
        tasks: the group in which each request gets a task.
        answer: a function that yields the messages for a request.
    """

    def __init__(self, tasks: asyncio.TaskGroup, answer: Callable[[Envelope, bytes], MockMessages]) -> None:
        self.client = new_id()
        self.pool = "the MockPool"
        self.internal_errors = InternalErrors()
        self.failure: Exception | None = None
        self._tasks = tasks
        self._answer = answer
        self._requests: dict[str, tuple[OpenRequest, asyncio.Task[None]]] = {}

    async def open(
        self, compose: Callable[[], Composed], idempotency_key: str | None = None, *, may_restart: bool = False
    ) -> OpenRequest:
        envelope, payload = compose()
        request = OpenRequest(envelope.id, may_restart=may_restart)
        task = self._tasks.create_task(
            self._deliver(request, self._answer(envelope, payload), envelope.time_to_live_ms)
        )
        task.add_done_callback(
            lambda _: request.give_up(RequestCancelled("The MockPool's handler ended without an answer."))
        )
        self._requests[request.id] = request, task
        return request

    async def attach(self, request_id: str, position: int = 0, *, may_restart: bool = False) -> OpenRequest:
        raise RequestLost("Clients of a MockPool cannot attach to requests.")

    async def cancel(self, request_id: str) -> bool:
        if request_id not in self._requests:
            return False
        request, _ = self._requests[request_id]
        self.leave(request)
        return isinstance(request.error, RequestCancelled)

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        request.give_up(RequestCancelled())
        self._requests[request.id][1].cancel()

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        self.leave(request)

    async def take_over(self, request: OpenRequest) -> None:
        """Clients cannot attach to requests, so each is its client's."""

    def let_go(self, request: OpenRequest) -> None:
        self.leave(request)

    async def lanes(self) -> tuple[LaneView, ...]:
        return ()

    async def _deliver(self, request: OpenRequest, messages: MockMessages, time_to_live_ms: int) -> None:
        deadline = asyncio.timeout(time_to_live_ms / 1000)
        try:
            async with deadline, aclosing(messages):
                async for message in messages:
                    request.receive(message)
                    await asyncio.sleep(0)  # so that its reader can cancel the request
                    if request.ended:
                        return
        except LlmError as error:
            request.give_up(error)
        except Exception as error:
            if not deadline.expired():
                self.failure = self.failure or error
                raise
            request.give_up(DeadlineExceeded())
