"""The gateway as a Starlette application: which path belongs to which dialect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from .answering import answer, error_body_for, refusal
from .chat_completions.dialect import ChatCompletions
from .door import Door
from .embeddings import embeddings
from .failures import Failure
from .messages.routes import message_routes
from .models import list_models, show_model
from .responses.routes import response_routes

_BASE_URLS = {"openai": "/v1", "anthropic": "/"}
"""What clients of each API add to the gateway's URL."""
_Endpoint = Callable[[Request], Awaitable[Response]]


def gateway_app(door: Door, why_not_ready: Callable[[], Awaitable[str]]) -> Starlette:
    """The application.

    Args:
        why_not_ready: returns why the pool cannot be asked, as a sentence; empty if it can.
    """

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        reason = await why_not_ready()
        return PlainTextResponse(f"{reason}\n" if reason else "ok\n", 503 if reason else 200)

    return Starlette(
        routes=[
            Route("/", _root),
            Route("/v1", _root),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/v1/chat/completions", partial(answer, door, ChatCompletions()), methods=["POST"]),
            Route("/v1/embeddings", partial(embeddings, door), methods=["POST"]),
            Route("/v1/models", partial(list_models, door)),
            Route("/v1/models/{model:path}", partial(show_model, door)),
            *message_routes(door),
            *response_routes(door),
        ],
        exception_handlers={404: _no_such_path, 405: _no_such_path},
    )


async def _root(_: Request) -> Response:
    return JSONResponse({"name": "tokenlane", "version": version("tokenlane"), "base_urls": _BASE_URLS})


async def _no_such_path(request: Request, _: Exception) -> Response:
    message = f"There is no {request.method} {request.url.path[:200]} in this gateway."
    return refusal(error_body_for(request), Failure(404, "no_such_path", message))
