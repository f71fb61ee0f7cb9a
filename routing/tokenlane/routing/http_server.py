"""The HTTP server of verbs: serves an aiohttp application for the duration of a block.

It needs aiohttp, so only verbs import it whose extra installs aiohttp.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from tokenlane.config.host.listen_address import cannot_listen, host_and_port
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.support.tasks import InternalErrors

_SHUTDOWN_S = 1.0
"""How long requests may run on when the block ends; then their handlers are cancelled."""
_KEEPALIVE_S = 75.0


@asynccontextmanager
async def serve_http(
    app: web.Application, address: tuple[str, int], *, option: str, errors: InternalErrors
) -> AsyncIterator[str]:
    """Serve the application while the block runs. Yields its URL, such as `http://127.0.0.1:9464`.

    A handler that raises an `LlmError`, for example because Redis does not answer, gives 503 and the error's message. A
    handler that raises an unexpected error gives 500, and the error is recorded.

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
        app, access_log=None, shutdown_timeout=_SHUTDOWN_S, keepalive_timeout=_KEEPALIVE_S, handler_cancellation=True
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
        except Exception as error:
            errors.record("HTTP server", error)
            return web.Response(status=500, text="internal error; the log of this process says more\n")

    return answer_errors


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "tokenlane"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cache-Control", "no-store")
