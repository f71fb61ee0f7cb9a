"""URLs of unix sockets, for Redis servers and model servers. Paths are quoted, since they may contain blanks."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote, urlsplit


def socket_url(path: Path, password: str | None = None) -> str:
    """Return the URL of a Redis server that listens on a socket."""
    user = "" if password is None else f":{quote(password, safe='')}@"
    return f"unix://{user}{quote(str(path))}?db=0"


def socket_of(url: str) -> Path | None:
    """Return the path of the socket in a URL; None if the URL has a host instead."""
    parts = urlsplit(url) if url.startswith("unix://") else None
    return Path(unquote(parts.path)) if parts and parts.path.strip("/") else None
