"""The paths of Responses."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tokenlane.producer.gateway.answering import ask, respond
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.openai_errors import error_body

from .conversations import Conversations
from .dialect import Responses


def response_routes(door: Door) -> Sequence[BaseRoute]:
    """The routes of Responses in front of a pool."""
    conversations = Conversations()

    async def create(request: Request) -> Response:
        try:
            caller = await door.caller_of(request)
        except Refused as refused:
            return JSONResponse(error_body(refused.failure), refused.failure.status, refused.failure.headers)
        dialect = Responses(conversations, caller.agent, may_be_background=False)
        asked = await ask(door, dialect, request)
        return asked if isinstance(asked, Response) else respond(door, dialect, asked, request)

    return [Route("/v1/responses", create, methods=["POST"])]
