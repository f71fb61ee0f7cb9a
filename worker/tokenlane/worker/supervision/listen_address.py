"""`tokenlane up --listen`: where it listens, and how others call that."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from tokenlane.config.exit_codes import ConfigError

_PORT = 6379
_EVERYWHERE = {"0.0.0.0", "::"}


def bind_address(text: str) -> tuple[str, int]:
    """The address and port that HOST or HOST:PORT stands for on this machine.

    Raises:
        ConfigError: it is none, or not of this machine.
    """
    try:
        bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
        parts = urlsplit(f"//[{text}]" if bare_ipv6 else f"//{text}")
        host, port = parts.hostname, _PORT if parts.port is None else parts.port
        if host == "*":
            raise ConfigError(
                f"--listen {text}: for all of this machine's addresses give 0.0.0.0, or :: for those of IPv6."
            )
        if port == 0:
            raise ConfigError(f"--listen {text}: give a port from 1 to 65535, or none for {_PORT}.")
        if not host or parts.netloc.strip("[]") == "" or parts.path or parts.username:
            raise ValueError
        address = str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"--listen {text}: give an address or name of this machine, and a port if not {_PORT}: HOST or HOST:PORT."
        ) from error
    return address, port


def known_as(address: str) -> str:
    """How other machines reach this one, which listens at `address`."""
    if address not in _EVERYWHERE:
        return address
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:db8::1" if ":" in address else "192.0.2.1", 9))  # sends nothing; asks for the route
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
