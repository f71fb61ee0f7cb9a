"""Reads the address of `tokenlane up --listen`, and finds the address by which other hosts reach it."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from tokenlane.config.exit_codes import ConfigError

_PORT = 6379
_EVERYWHERE = {"0.0.0.0", "::"}


def bind_address(text: str) -> tuple[str, int]:
    """The address and port on this host that HOST or HOST:PORT names.

    Raises:
        ConfigError: the text is not an address, or not an address of this host.
    """
    try:
        bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
        parts = urlsplit(f"//[{text}]" if bare_ipv6 else f"//{text}")
        host, port = parts.hostname, _PORT if parts.port is None else parts.port
        # Some resolvers take a star for loopback, although users mean all addresses by it.
        if not host or host == "*" or port == 0 or parts.netloc.strip("[]") == "" or parts.path or parts.username:
            raise ValueError
        address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"--listen {text}: give HOST or HOST:PORT. HOST is a name or address of this host, 0.0.0.0 for all of its "
            f"addresses, or :: for those of IPv6; PORT is from 1 to 65535, and {_PORT} by default."
        ) from error
    return address, port


def known_as(address: str) -> str:
    """The address by which other hosts reach this one when it listens at `address`."""
    if address not in _EVERYWHERE:
        return address
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:db8::1" if ":" in address else "192.0.2.1", 9))  # sends nothing; finds the route
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
