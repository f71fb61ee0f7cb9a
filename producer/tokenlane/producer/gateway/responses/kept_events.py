"""Sends the events of a response in the background, from any number on. The response goes on if the client leaves."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.http.client_leaves import until_client_leaves
from tokenlane.producer.gateway.http.outlet import Outlet, Pauses
from tokenlane.routing.support.tasks import background

from .kept import Kept
from .writer import EventWriter

_DIFFERS = Failure(
    409,
    "answer_differs",
    "The answer has fewer events than the client has received: it broke off, and went on from an earlier place. "
    "Read the response from its start.",
)


class KeptEvents(Response):
    """The response with the events after a number.

    Args:
        after: the number of the last event that the client has; -1 if it has none.
    """

    def __init__(self, kept: Kept, pauses: Pauses, after: int = -1) -> None:
        super().__init__()
        self._kept, self._pauses, self._after = kept, pauses, after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept, writer = self._kept, self._kept.writer(self._after)
        headers = {
            "content-type": "text/event-stream",
            "cache-control": "no-store",
            "x-accel-buffering": "no",
            "x-tokenlane-request": kept.request_id,
        }
        outlet = Outlet(send, lambda: headers)
        async with until_client_leaves(receive) as left, background() as tasks:
            await outlet.write(writer.begin())
            tasks.create_task(outlet.keep_open(lambda: writer.ping(kept.waiting), self._pauses, left))
            place = 0
            while deltas := await kept.next(place):
                place += len(deltas)
                await outlet.write(writer.deltas(deltas))
            await outlet.write(self._last(writer))
            await outlet.end()

    def _last(self, writer: EventWriter) -> bytes:
        """The events after the last delta."""
        if self._kept.answer is None:
            assert self._kept.failure is not None
            return writer.fail(self._kept.failure)
        events = writer.end(self._kept.answer)
        return events if writer.number >= self._after else writer.fail(_DIFFERS)
