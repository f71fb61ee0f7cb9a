"""`tokenlane dashboard`: serves a live page of a pool, from which operators also steer it."""

from __future__ import annotations

import logging
import re
import secrets
import socket
from typing import Annotated

import typer
from pydantic import SecretStr

from tokenlane.config.cli.log_lines import start_logging
from tokenlane.config.cli.output import note
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.listen_address import bind_address, host_and_port, known_as
from tokenlane.config.host.stop_signals import stop_event
from tokenlane.config.settings.environment import PREFIX, secret_in
from tokenlane.config.settings.load import find_pool, log_settings, pool_name
from tokenlane.producer.client import Client
from tokenlane.producer.dashboard.access import Access, only_this_host_reaches
from tokenlane.producer.dashboard.app import dashboard_app
from tokenlane.producer.dashboard.feed import Feed
from tokenlane.routing.commands.pool_session import check_readable, pool_session
from tokenlane.routing.http_server import serve_http
from tokenlane.routing.store.pool import Pool

_PORT = 9466
_TOKEN = f"{PREFIX}DASHBOARD_TOKEN"


def dashboard(
    listen: Annotated[
        str,
        typer.Option(metavar="HOST[:PORT]", help="The address to listen on; port 0 is any free port."),
    ] = f"127.0.0.1:{_PORT}",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name by which browsers reach the page, such as a proxy's. May be repeated.",
        ),
    ] = None,
    redis: RedisUrl = None,
    pool: PoolName = None,
) -> None:
    """Serve a live page of the pool until Ctrl-C: roles, lanes, requests and failures, with drain, pause, cancel, load.

    On a loopback address without --allow-host everybody on this host may see the page. Acting needs a token, and so
    does seeing it from other hosts. The token is printed at the start, unless the variable TOKENLANE_DASHBOARD_TOKEN
    has one.
    """
    address = bind_address(listen, "--listen", _PORT, any_port=True)
    given = _given_token()
    names = {socket.gethostname().lower(), known_as(address[0]).lower(), *map(str.lower, allow_host or ())}
    token = given or SecretStr(secrets.token_urlsafe(24))
    access = Access(token, frozenset(names), viewing_is_open=only_this_host_reaches(address[0], allow_host or ()))
    start_logging(log_settings(), logging.INFO)
    server = find_pool(redis)

    def open_client() -> Client:
        return Client(server.url, pool=pool_name(pool), key=server.keys)

    async def serve(opened: Pool) -> None:
        app = dashboard_app(Feed(opened), open_client, access)
        with stop_event() as stopping:
            async with serve_http(app, address, option="--listen", errors=opened.internal_errors) as url:
                await check_readable(opened)
                port = int(url.rpartition(":")[2])
                _announce(f"http://{host_and_port(known_as(address[0]), port)}/", access, given)
                await stopping.wait()

    pool_session(redis, pool, serve, greets=False)


def _given_token() -> SecretStr | None:
    """The token that the operator chose, if any.

    Raises:
        ConfigError: no browser can send it.
    """
    token = secret_in(_TOKEN)
    if token is not None and not re.fullmatch("[!-~]+", token.get_secret_value()):
        raise ConfigError(f"{_TOKEN} has spaces or characters beyond ASCII, which browsers cannot send.")
    return token


def _announce(page: str, access: Access, given: SecretStr | None) -> None:
    """Print the URL of the page, with the token unless the operator knows it."""
    if given is None:
        note(f"page   {page}#token={access.token.get_secret_value()}")
    else:
        note(f"page   {page}")
        note(f"token  the value of {_TOKEN}")
    if not access.viewing_is_open:
        note("note   HTTP is not encrypted: let others reach the page through a proxy with TLS only")
