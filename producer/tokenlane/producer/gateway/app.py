"""The gateway as a Starlette application: which path belongs to which dialect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from .answering import CountsBugs, answer, error_body_for, refusal
from .batches.in_process import caller_within
from .batches.keeper import Keeper
from .batches.routes import batch_routes
from .batches.store import BatchStore
from .chat_completions.dialect import ChatCompletions
from .door import Door
from .embeddings import embeddings
from .failures import Failure
from .files.routes import file_routes
from .files.shelf import Shelf
from .http.outlet import Pauses
from .messages.routes import message_routes
from .models import list_models, show_model
from .responses.routes import response_routes

_BASE_URLS = {"openai": "/v1", "anthropic": "/"}
"""What clients of each API add to the gateway's URL."""
_BATCH_ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
_WEEK_S = 7 * 86_400


def gateway_app(door: Door, why_not_ready: Callable[[], Awaitable[str]], keeper: Keeper | None = None) -> Starlette:
    """The application.

    Args:
        why_not_ready: returns why the pool cannot be asked, as a sentence; empty if it can.
        keeper: runs the batches; None if this gateway keeps no files.
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
            Route("/v1/models", partial(list_models, door)),
            Route("/v1/models/{model:path}", partial(show_model, door)),
            *_answering_routes(door),
            *message_routes(door),
            *file_routes(keeper.store.shelf if keeper else None, door.caller_of),
            *batch_routes(keeper, door.caller_of, _BATCH_ENDPOINTS),
        ],
        middleware=[Middleware(CountsBugs, errors=door.client.link.internal_errors)],
        exception_handlers={404: _no_such_path, 405: _no_such_path},
    )


def batch_keeper(door: Door, shelf: Shelf) -> Keeper:
    """What runs the batches of a directory of files, while its `keep` runs."""
    patient = Pauses(_WEEK_S, _WEEK_S, _WEEK_S)  # no line needs a ping, and a status that came early could be wrong
    inner = replace(door, caller_of=caller_within, pauses=patient, tasks=None)
    app = Starlette(
        routes=_answering_routes(inner),
        middleware=[Middleware(CountsBugs, errors=door.client.link.internal_errors)],
        exception_handlers={404: _no_such_path, 405: _no_such_path},
    )
    return Keeper(BatchStore(shelf), app, door.client.link)


def _answering_routes(door: Door) -> list[BaseRoute]:
    """The paths that lines of batches may ask too."""
    return [
        Route("/v1/chat/completions", partial(answer, door, ChatCompletions()), methods=["POST"]),
        Route("/v1/embeddings", partial(embeddings, door), methods=["POST"]),
        *response_routes(door),
    ]


async def _root(_: Request) -> Response:
    return JSONResponse({"name": "tokenlane", "version": version("tokenlane"), "base_urls": _BASE_URLS})


async def _no_such_path(request: Request, _: Exception) -> Response:
    message = f"There is no {request.method} {request.url.path[:200]} in this gateway."
    return refusal(error_body_for(request), Failure(404, "no_such_path", message))
