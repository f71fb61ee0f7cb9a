"""Answers that a fault script demands instead of the handler's, such as an error status or a closed connection."""

from __future__ import annotations

from aiohttp import web

from tokenlane.benches.simulator.dialects.base import Dialect
from tokenlane.benches.simulator.fault_script import FaultScript

from .hostile_answers import bomb, endless_headers
from .http_answer import HttpAnswer


async def early_answer(request: web.Request, script: FaultScript, dialect: Dialect) -> web.StreamResponse | None:
    """Return the answer that the script demands; None if the handler should answer."""
    if script.drop:
        close(request)
        return web.Response()
    if script.endless_headers:
        return await endless_headers(HttpAnswer(request))
    if script.gzip_bomb_bytes is not None:
        stream_type = script.content_type or next(iter(dialect.encoders().values())).stream_type
        return await bomb(HttpAnswer(request), script.gzip_bomb_bytes, stream_type)
    status = script.status or (307 if script.location else None)
    if status is None:
        return None
    headers = {"Retry-After": script.retry_after, "Location": script.location}
    return web.json_response(
        dialect.scripted_error(status, script.error),
        status=status,
        headers={name: value for name, value in headers.items() if value is not None},
    )


def close(request: web.Request) -> None:
    """Close the connection of a request."""
    if request.transport is not None:
        request.transport.close()
