"""A link to no pool: what is asked is answered in a task here."""

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

from .mock_messages import Spoken


class MemoryLink:
    """A `Link` for any number of clients. It has no lanes, and nothing to attach to.

    Attributes:
        failure: the first error, other than an `LlmError`, with which an answer broke off.

    Args:
        tasks: where answers are made.
        answer: gives the messages that answer a request.
    """

    def __init__(self, tasks: asyncio.TaskGroup, answer: Callable[[Envelope, bytes], Spoken]) -> None:
        self.client = new_id()
        self.internal_errors = InternalErrors()
        self.failure: Exception | None = None
        self._tasks = tasks
        self._answer = answer
        self._requests: dict[str, OpenRequest] = {}
        self._answers: dict[str, asyncio.Task[None]] = {}

    def take_id(self) -> str:
        return new_id()

    def give_back_id(self, request_id: str) -> None:
        pass

    async def open(self, compose: Callable[[], Composed], idempotency_key: str | None = None) -> OpenRequest:
        envelope, payload = compose()
        request = OpenRequest(envelope.id)
        answering = self._tasks.create_task(self._answering(request, self._answer(envelope, payload)))
        self._requests[request.id], self._answers[request.id] = request, answering
        left_s = envelope.time_to_live_ms / 1000
        timer = asyncio.get_running_loop().call_later(left_s, self._end, request, DeadlineExceeded())
        answering.add_done_callback(lambda _: timer.cancel())
        answering.add_done_callback(lambda _: request.give_up(RequestCancelled("the MockPool's handler broke off")))
        return request

    async def attach(self, request_id: str, position: int = 0) -> OpenRequest:
        raise RequestLost("a MockPool has no requests to attach to")

    async def cancel(self, request_id: str) -> bool:
        request = self._requests.get(request_id)
        if request is None:
            return False
        self.leave(request)
        return isinstance(request.error, RequestCancelled)

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        self._end(request, RequestCancelled())

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        self.leave(request)

    async def lanes(self) -> tuple[LaneView, ...]:
        return ()

    def _end(self, request: OpenRequest, error: LlmError) -> None:
        request.give_up(error)
        self._answers[request.id].cancel()

    async def _answering(self, request: OpenRequest, messages: Spoken) -> None:
        try:
            async with aclosing(messages):
                async for message in messages:
                    request.message(message)
                    await asyncio.sleep(0)  # so that its reader may cancel it
                    if request.ended:
                        return
        except LlmError as error:
            request.give_up(error)
        except Exception as error:
            self.failure = self.failure or error
            raise
