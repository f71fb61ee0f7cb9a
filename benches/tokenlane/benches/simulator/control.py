"""The paths under `/simulator/`, with which tests observe and control the simulator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from .engine import Engine
from .request_log import Log

_PATIENCE_S = 30


def control_handlers(
    log: Log, engine: Engine, release: Callable[[int | None], None]
) -> Mapping[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]:
    """Return the handlers by `METHOD /path`. `release` lets a held request continue, or all of them if it gets None."""

    async def show_log(request: web.Request) -> web.Response:
        """Return the log, or with `?since=` only requests with at least this index."""
        since = _number(request, "since")
        return web.json_response([received.summary() for received in log if received.index >= since])

    async def show_state(_: web.Request) -> web.Response:
        """Return the numbers of running and waiting requests, and the models."""
        return web.json_response(
            {
                "running": engine.running,
                "waiting": engine.waiting,
                "capacity": engine.capacity,
                "models": [*engine.models.on_disk],
                "loaded": [instance.id for instance in engine.models.loaded()],
            }
        )

    async def wait_for(request: web.Request) -> web.Response:
        """Return the log once at least the requested numbers of requests are `received`, `held` and `ended`.

        After 30 s the status is 408.
        """
        count, held, ended = (_number(request, name) for name in ("received", "held", "ended"))
        try:
            await log.wait_for(
                lambda: (
                    len(log) >= count
                    and sum(received.held for received in log) >= held
                    and sum(received.ended is not None for received in log) >= ended
                ),
                _PATIENCE_S,
            )
        except TimeoutError:
            return web.Response(status=408)
        return await show_log(request)

    async def let_go(request: web.Request) -> web.Response:
        """Release the held request `?index=`, or all held requests."""
        release(_number(request, "index") if "index" in request.query else None)
        return web.Response(status=204)

    return {
        "GET /simulator/log": show_log,
        "GET /simulator/state": show_state,
        "GET /simulator/wait": wait_for,
        "POST /simulator/release": let_go,
    }


def _number(request: web.Request, name: str) -> int:
    value = request.query.get(name, "0")
    if not value.isdecimal():
        raise web.HTTPBadRequest(text=f"{name} must be a whole number")
    return int(value)
