"""The HTTP server of verbs: serves an aiohttp application for the duration of a block.

It needs aiohttp, so only verbs import it whose extra installs aiohttp.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web, web_response
from aiohttp.http_exceptions import HttpProcessingError

from tokenlane.config.host.listen_address import cannot_listen, host_and_port
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.support.tasks import InternalErrors

_SHUTDOWN_S = 1.0
"""How long requests may run on when the block ends; then their handlers are cancelled."""
_IDLE_S = 75.0
"""How long a connection may be without a whole request: between two, or while the headers of one arrive."""

# The header Server would name the versions of aiohttp and Python, also where aiohttp refuses a malformed request.
web_response.SERVER_SOFTWARE = "tokenlane"  # type: ignore[attr-defined]  # aiohttp has no setting for it


@asynccontextmanager
async def serve_http(
    app: web.Application, address: tuple[str, int], *, option: str, errors: InternalErrors
) -> AsyncIterator[str]:
    """Serve the application while the block runs. Yields its URL, such as `http://127.0.0.1:9464`.

    A handler that raises an `LlmError`, for example because Redis does not answer, gives 503 and the error's message. A
    handler that raises an unexpected error gives 500, and the error is recorded. A malformed request gives 400. Bodies
    are not decompressed.

    Args:
        address: the host and port from `bind_address`; port 0 is any free port.
        option: where the address comes from, such as `--listen`, for errors.
        errors: records unexpected errors of handlers.

    Raises:
        ConfigError: this process cannot listen at the address.
    """
    app.middlewares.insert(0, _answers_errors(errors))
    app.on_response_prepare.append(_add_headers)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_log,
        shutdown_timeout=_SHUTDOWN_S,
        keepalive_timeout=_IDLE_S,
        handler_cancellation=True,
        auto_decompress=False,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, *address)
        try:
            await site.start()
        except OSError as error:
            raise cannot_listen(address, option, error) from error
        yield f"http://{host_and_port(address[0], site.port)}"
    finally:
        await runner.cleanup()


def add_health(app: web.Application, why_not_ready: Callable[[], Awaitable[str]]) -> None:
    """Add the paths that orchestrators ask.

    `/healthz` answers 200 while the process lives. `/readyz` answers 200 if the process can do its work, otherwise 503
    and the reason.

    Args:
        why_not_ready: returns the reason as a sentence, or an empty text if the process is ready.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reason = await why_not_ready()
        return web.Response(text=f"{reason}\n", status=503) if reason else web.Response(text="ok\n")

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)


def _answers_errors(errors: InternalErrors) -> Callable[..., Awaitable[web.StreamResponse]]:
    @web.middleware
    async def answer_errors(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except LlmError as error:
            return web.Response(status=503, text=f"{error}\n")
        except web.RequestPayloadError:
            return web.Response(status=400, text="the body of the request is malformed\n")
        except Exception as error:
            errors.record("HTTP server", error)
            return web.Response(status=500, text="internal error; the log of this process says more\n")

    return answer_errors


def _is_terse(record: logging.LogRecord) -> bool:
    """Turn aiohttp's line about a malformed request into a warning without a traceback, which would quote the request.
    Always true, as it leaves out no line."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = "refused a malformed HTTP request (%s)", (type(error).__name__,)
        record.exc_info = None
    return True


_log = logging.getLogger(__name__)
_log.addFilter(_is_terse)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
