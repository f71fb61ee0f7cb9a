"""The HTTP server of the gateway: runs an ASGI application in uvicorn for the duration of a block."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.listen_address import cannot_listen, host_and_port
from tokenlane.routing.support.tasks import background

from .connection import Connection

_DRAIN_S = 30
"""How long answers may go on after the block has ended."""
_IDLE_S = 75
_BACKLOG = 2048


@dataclass(frozen=True)
class Certificate:
    """The files with which the gateway serves HTTPS, in PEM format."""

    chain: Path
    key: Path


class _Server(uvicorn.Server):
    """A server that leaves signals to the verb, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@asynccontextmanager
async def serve_asgi(
    app: ASGIApp, address: tuple[str, int], *, option: str, certificate: Certificate | None = None
) -> AsyncIterator[str]:
    """Serve the application while the block runs. Yields its URL, such as `http://127.0.0.1:4000`.

    When the block ends, no new requests are accepted, and answers may go on for 30 s.

    Args:
        address: the host and port from `bind_address`; port 0 is any free port.
        option: where the address comes from, such as `--listen`, for errors.

    Raises:
        ConfigError: this process cannot listen at the address, or the certificate cannot be used.
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_DRAIN_S,
        ssl_certfile=certificate.chain if certificate else None,
        ssl_keyfile=certificate.key if certificate else None,
    )
    try:
        config.load()
    except (OSError, ValueError) as error:  # of the module ssl
        raise ConfigError(f"--tls-cert, --tls-key: the certificate cannot be used: {error.args[-1]}.") from error
    listening = _listen(address, option)
    server = _Server(config)
    try:
        async with background() as tasks:
            serving = tasks.create_task(server.serve(sockets=[listening]), name="tokenlane gateway")
            await server.listens.wait()
            scheme = "https" if certificate else "http"
            yield f"{scheme}://{host_and_port(address[0], listening.getsockname()[1])}"
            server.should_exit = True
            await serving
    finally:
        listening.close()


def _listen(address: tuple[str, int], option: str) -> socket.socket:
    try:
        return socket.create_server(
            address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET, backlog=_BACKLOG
        )
    except OSError as error:
        raise cannot_listen(address, option, error) from error
