"""The dashboard as an aiohttp application: the page's files, its events, and the actions of operators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from importlib.resources import files
from typing import TypeAlias

from aiohttp import web
from pydantic import ValidationError

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.routing.http_server import add_health
from tokenlane.routing.support.tasks import background, restart_on_error
from tokenlane.routing.watch.metrics.page import add_metrics
from tokenlane.routing.watch.metrics.samples import Sample

from .access import Access, Refused
from .actions import Action, OpenClient, act, adapter
from .feed import MOST_VIEWERS, Feed

logger = logging.getLogger(__name__)

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_TASKS = web.AppKey("tasks", asyncio.TaskGroup)
"""What the application does besides answering: it follows the pool, and carries out actions."""
_WRITE_S = 10.0
"""How long a viewer may take for one event. A slower one is dropped; its page connects again."""
_TYPES = {".svg": "image/svg+xml", ".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def dashboard_app(feed: Feed, open_client: OpenClient, access: Access) -> web.Application:
    """The application, with paths relative to where it is mounted: `./`, `./events`, `./actions`, and those of health
    and metrics.

    Orchestrators and Prometheus ask for these by any name and without the token. They learn whether the pool answers,
    its name, and what this process uses and how often it failed.

    Args:
        open_client: opens a client of the pool, for commands to lanes.
    """

    async def why_not_ready() -> str:
        return "" if feed.is_ready else "not ready"

    async def measured() -> list[Sample]:
        return [Sample("tokenlane_dashboard_errors_total", (), feed.pool.internal_errors.count)]

    app = web.Application()
    app.cleanup_ctx.append(_with_tasks(feed))
    app.on_response_prepare.append(_add_headers)
    for name, kind, content in _page():
        app.router.add_get(f"/{name}", _checked(access, _file(kind, content), links_allowed=not name))
    app.router.add_get("/events", _checked(access, _events(feed, access)))
    app.router.add_post("/actions", _checked(access, _actions(feed, open_client, access)))
    add_health(app, why_not_ready)
    add_metrics(app, feed.pool.keys.pool, measured)
    return app


def _page() -> list[tuple[str, str, bytes]]:
    """The page's files: their path, type and content."""
    folder = files(__package__) / "page"
    named = {file.name: file for file in folder.iterdir()}
    found = [(name, suffix, file) for name, file in named.items() for suffix in _TYPES if name.endswith(suffix)]
    return [("" if name == "index.html" else name, _TYPES[suffix], file.read_bytes()) for name, suffix, file in found]


def _file(kind: str, content: bytes) -> _Handler:
    async def send(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})

    return send


def _events(feed: Feed, access: Access) -> _Handler:
    async def send(request: web.Request) -> web.StreamResponse:
        access.check_viewer(request.headers)
        if feed.viewers >= MOST_VIEWERS:
            raise Refused(503, f"{MOST_VIEWERS} viewers follow the pool already.")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        with feed.viewer():
            await response.prepare(request)
            try:
                async with aclosing(feed.events()) as events:
                    async for event in events:
                        async with asyncio.timeout(_WRITE_S):
                            await response.write(event)
            except (TimeoutError, ConnectionError):  # the viewer is too slow, or has gone
                if request.transport is not None:
                    request.transport.abort()
        return response

    return send


def _actions(feed: Feed, open_client: OpenClient, access: Access) -> _Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            access.check_operator(request.headers)
        except Refused as refused:
            logger.warning("refused an action from %s: %s", request.remote, refused)
            raise
        if request.content_type != "application/json":
            raise Refused(415, "An action is JSON.")
        try:
            action = adapter.validate_json(await request.read())
        except ValidationError:
            raise Refused(400, "This is no action of the dashboard.") from None
        # A browser that leaves cancels this handler. The action goes on, for as long as the dashboard runs.
        return await asyncio.shield(request.app[_TASKS].create_task(answer(action, request.remote)))

    async def answer(action: Action, address: str | None) -> web.Response:
        try:
            return web.Response(text=f"{await act(feed.pool, open_client, action, address)}\n")
        except LlmError as error:
            return web.Response(status=503 if isinstance(error, PoolUnavailable) else 409, text=f"{error.message}\n")
        except Exception as error:
            feed.pool.internal_errors.record("dashboard's actions", error)
            return web.Response(status=500, text="The dashboard has an internal error; its log says more.\n")

    return handle


def _checked(access: Access, handler: _Handler, *, links_allowed: bool = False) -> _Handler:
    async def check(request: web.Request) -> web.StreamResponse:
        try:
            access.check_site(request.headers, links_allowed=links_allowed)
            return await handler(request)
        except Refused as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
            return web.Response(status=refused.status, text=f"{refused}\n", headers=headers)

    return check


def _with_tasks(feed: Feed) -> Callable[[web.Application], AsyncIterator[None]]:
    async def run_tasks(app: web.Application) -> AsyncIterator[None]:
        async with background() as tasks:
            app[_TASKS] = tasks
            tasks.create_task(restart_on_error("dashboard", feed.run, feed.pool.internal_errors))
            yield

    return run_tasks


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
