"""The paths of Responses."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tokenlane.producer.gateway.access.caller import Caller
from tokenlane.producer.gateway.answering import ask, respond, unless_refused
from tokenlane.producer.gateway.door import Asked, Door
from tokenlane.producer.gateway.failures import Refused

from .background import Background
from .conversations import Conversations
from .dialect import Responses, as_responses
from .kept import Kept
from .kept_events import KeptEvents
from .snapshot import response_id

_NUMBER = re.compile("[0-9]{1,15}")


def response_routes(door: Door) -> Sequence[BaseRoute]:
    """The routes of Responses in front of a pool."""
    doors = _Responses(door)
    return [
        Route("/v1/responses", doors.create, methods=["POST"]),
        Route("/v1/responses/{id}", doors.retrieve, methods=["GET"]),
        Route("/v1/responses/{id}", doors.delete, methods=["DELETE"]),
        Route("/v1/responses/{id}/cancel", doors.cancel, methods=["POST"]),
    ]


class _Responses:
    """The responses of a gateway."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._conversations = Conversations()
        self._background = None if door.tasks is None else Background(door, door.tasks)

    async def create(self, request: Request) -> Response:
        """Answer a request, or begin to."""
        caller = await unless_refused(self._dialect().error, self._door.caller_of(request))
        if isinstance(caller, Response):
            return caller
        dialect = self._dialect(caller.agent)
        asked = await ask(self._door, dialect, request)
        if isinstance(asked, Response):
            return asked
        if self._background is None or not as_responses(asked.question).is_background:
            return respond(self._door, dialect, asked, request)
        return await self._begin(self._background, dialect, asked, caller)

    async def retrieve(self, request: Request) -> Response:
        """Show a response as it stands, or send its events."""

        async def show(_: Background, kept: Kept) -> Response:
            if request.query_params.get("stream", "").lower() != "true":
                return _shown(kept.snapshot())
            after = request.query_params.get("starting_after")
            if after is not None and not _NUMBER.fullmatch(after):
                message = "`starting_after` must be the `sequence_number` of an event."
                raise Refused(400, "bad_request", message, param="starting_after")
            return KeptEvents(kept, self._door.pauses, -1 if after is None else int(after))

        return await self._with(request, show)

    async def cancel(self, request: Request) -> Response:
        """Cancel a response, and show it."""

        async def cancel(held: Background, kept: Kept) -> Response:
            await held.cancel(kept)
            return _shown(kept.snapshot())

        return await self._with(request, cancel)

    async def delete(self, request: Request) -> Response:
        """Cancel a response, and forget it."""

        async def delete(held: Background, kept: Kept) -> Response:
            await held.delete(kept)
            return _shown({"id": response_id(kept.request_id), "object": "response", "deleted": True})

        return await self._with(request, delete)

    def _dialect(self, agent: str = "") -> Responses:
        return Responses(self._conversations, agent, may_be_background=self._background is not None)

    async def _begin(self, held: Background, dialect: Responses, asked: Asked, caller: Caller) -> Response:
        question = as_responses(asked.question)
        sent = held.start(asked, caller.agent, lambda begun, answer: dialect.remember(question, begun, answer))
        kept = await unless_refused(dialect.error, sent)
        if isinstance(kept, Response):
            return kept
        return KeptEvents(kept, self._door.pauses) if question.is_streamed else _shown(kept.snapshot())

    async def _with(self, request: Request, do: Callable[[Background, Kept], Awaitable[Response]]) -> Response:
        """Do something with the response that the path names."""

        async def done() -> Response:
            caller = await self._door.caller_of(request)
            if self._background is None:
                raise Refused(404, "response_not_found", "This gateway runs no responses in the background.")
            return await do(self._background, await self._background.find(request.path_params["id"], caller))

        return await unless_refused(self._dialect().error, done())


def _shown(document: dict[str, object]) -> Response:
    return JSONResponse(document, headers={"cache-control": "no-store"})
