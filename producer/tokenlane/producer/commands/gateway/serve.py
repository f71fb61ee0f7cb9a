"""`tokenlane serve`: serves the HTTP APIs of OpenAI and Anthropic in front of the pool."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from tokenlane.config.cli.log_lines import start_logging
from tokenlane.config.cli.output import note
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.listen_address import bind_address
from tokenlane.config.host.stop_signals import stop_event
from tokenlane.config.settings.load import log_settings
from tokenlane.producer.gateway.http.server import Certificate

from .session import gateway_session

_PORT = 4000


def serve(
    listen: Annotated[
        str,
        typer.Option(metavar="HOST[:PORT]", help="The address to listen on; port 0 is any free port."),
    ] = f"127.0.0.1:{_PORT}",
    port: Annotated[int | None, typer.Option(help="The port on 127.0.0.1, in place of --listen.", min=0)] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Serve HTTPS with this certificate, a PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key, a PEM file.")] = None,
    files: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Enable files and batches, and keep them sealed in this directory."),
    ] = None,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Serve the APIs of OpenAI and Anthropic until Ctrl-C: their clients use the pool by changing their base URL."""
    address = bind_address(listen if port is None else f"127.0.0.1:{port}", "--listen", _PORT, any_port=True)
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together: give both.")
    certificate = Certificate(tls_cert, tls_key) if tls_cert and tls_key else None
    start_logging(log_settings(), logging.INFO)

    async def run(url: str) -> None:
        with stop_event() as stopping:
            note(f"gateway  {url}/v1")
            await stopping.wait()

    gateway_session(redis, pool, address, run, certificate=certificate, files=files)
