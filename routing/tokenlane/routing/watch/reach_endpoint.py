"""Tries to connect to a lane's endpoint from this host."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Literal
from urllib.parse import urlsplit

from tokenlane.config.host.socket_urls import socket_of

Reached = Literal["accepts", "refuses", "unreachable", "not a URL"]

_CONNECT_S = 2.0


async def reach(endpoint: str) -> Reached:
    """Try to connect to an announced endpoint. Workers replace loopback addresses by their host's name when they
    announce them, so for an endpoint that names this host, its loopback addresses and Unix sockets are tried, too."""
    if (address := _host_and_port(endpoint)) is None:
        return "not a URL"
    announced, port = address
    is_local = announced == socket.gethostname().lower()
    if (path := socket_of(endpoint)) is not None:
        attempts = [partial(asyncio.open_unix_connection, path)] if is_local else []
    else:
        hosts = (announced, "127.0.0.1", "::1") if is_local else (announced,)
        attempts = [partial(asyncio.open_connection, host, port) for host in hosts]
    result: Reached = "unreachable"
    for connect in attempts:
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await connect()
            writer.close()
            return "accepts"
        except (ConnectionRefusedError, FileNotFoundError):
            result = "refuses"
        except (OSError, ValueError, TimeoutError):  # ValueError: the host's name cannot be encoded for DNS
            continue
    return result


def _host_and_port(endpoint: str) -> tuple[str, int] | None:
    """The host and port of an announced endpoint; None if it is not a URL with a host."""
    try:
        parts = urlsplit(endpoint)
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None
