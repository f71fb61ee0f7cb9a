"""Whether the model server of a lane can be reached from this host."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tokenlane.config.host.socket_urls import socket_of

Reached = Literal["answers", "refuses", "not from here", "is no URL"]

_CONNECT_S = 2.0


async def reach(endpoint: str) -> Reached:
    """Whether anything accepts a connection there. This host's own loopback and sockets were announced by the host's
    name."""
    if (place := _host_and_port(endpoint)) is None:
        return "is no URL"
    announced, port = place
    own = announced == socket.gethostname().lower()
    if (path := socket_of(endpoint)) is not None:
        return await _connect_to(path) if own else "not from here"
    answers: set[Reached] = set()
    for host in (announced, "127.0.0.1", "::1") if own else (announced,):
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return "answers"
        except ConnectionRefusedError:
            answers.add("refuses")
        except (OSError, ValueError, TimeoutError):  # ValueError: a host that no name server can be asked for
            continue
    return "refuses" if "refuses" in answers else "not from here"


def _host_and_port(endpoint: str) -> tuple[str, int] | None:
    """The host and port of what a worker has announced; None if it is no URL with a host."""
    try:
        parts = urlsplit(endpoint)
        port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


async def _connect_to(path: Path) -> Reached:
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_unix_connection(path)
    except (ConnectionRefusedError, FileNotFoundError):
        return "refuses"
    except (OSError, ValueError, TimeoutError):
        return "not from here"
    writer.close()
    return "answers"
