"""`tokenlane serve`: serves the HTTP APIs of OpenAI and Anthropic in front of the pool."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from starlette.requests import Request

from tokenlane.config.cli.log_lines import start_logging
from tokenlane.config.cli.output import note
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.listen_address import bind_address
from tokenlane.config.host.stop_signals import stop_event
from tokenlane.config.settings.load import find_pool, log_settings, pool_name
from tokenlane.producer.client import Client
from tokenlane.producer.gateway.access.caller import Caller, session_of
from tokenlane.producer.gateway.app import gateway_app
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.http.server import Certificate, serve_asgi
from tokenlane.routing.commands.pool_session import check_readable, pool_session
from tokenlane.routing.store.pool import Pool

_PORT = 4000


def serve(
    listen: Annotated[
        str,
        typer.Option(metavar="HOST[:PORT]", help="The address to listen on; port 0 is any free port."),
    ] = f"127.0.0.1:{_PORT}",
    port: Annotated[int | None, typer.Option(help="The port on 127.0.0.1, in place of --listen.", min=0)] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Serve HTTPS with this certificate, a PEM file.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's private key, a PEM file.")] = None,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Serve the APIs of OpenAI and Anthropic until Ctrl-C: their clients use the pool by changing their base URL."""
    address = bind_address(listen if port is None else f"127.0.0.1:{port}", "--listen", _PORT, any_port=True)
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together: give both.")
    certificate = Certificate(tls_cert, tls_key) if tls_cert and tls_key else None
    start_logging(log_settings(), logging.INFO)
    server = find_pool(redis)

    async def run(opened: Pool) -> None:
        async def caller_of(request: Request) -> Caller:
            return Caller("gateway", conversation=session_of(request.headers))

        async def why_not_ready() -> str:
            return ""

        async with Client(server.url, pool=pool_name(pool), key=server.keys, agent="gateway") as client:
            door = Door(client, caller_of, opened.policies.read)
            with stop_event() as stopping:
                async with serve_asgi(
                    gateway_app(door, why_not_ready), address, option="--listen", certificate=certificate
                ) as url:
                    await check_readable(opened)
                    note(f"door   {url}/v1")
                    await stopping.wait()

    pool_session(redis, pool, run, greets=False)
