"""The addresses at which verbs listen: reads them, and explains why listening fails and how other hosts reach them."""

from __future__ import annotations

import errno
import socket
from urllib.parse import urlsplit

from tokenlane.config.exit_codes import ConfigError

_EVERYWHERE = {"0.0.0.0", "::"}


def bind_address(text: str, option: str, port: int, *, any_port: bool = False) -> tuple[str, int]:
    """The address and port on this host that HOST or HOST:PORT names.

    Args:
        option: where the text comes from, such as `--listen`, for the error.
        port: the port if the text has none.
        any_port: whether the port may be 0, for any free port.

    Raises:
        ConfigError: the text is not an address, or not an address of this host.
    """
    try:
        bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
        parts = urlsplit(f"//[{text}]" if bare_ipv6 else f"//{text}")
        host, number = parts.hostname, port if parts.port is None else parts.port
        # Some resolvers take a star for loopback, although users mean all addresses by it.
        if not host or host == "*" or parts.netloc.strip("[]") == "" or parts.path or parts.username:
            raise ValueError
        if number == 0 and not any_port:
            raise ValueError
        address = str(socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][4][0])
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"{option} {text}: give HOST or HOST:PORT. HOST is a name or address of this host, 0.0.0.0 for all of its "
            f"addresses, or :: for those of IPv6; PORT is from 1 to 65535, {'0 for any free port, ' * any_port}"
            f"and {port} by default."
        ) from error
    return address, number


def cannot_listen(address: tuple[str, int], option: str, error: OSError) -> ConfigError:
    """The error that ends a command which cannot listen at an address. `option`: where the address comes from."""
    match error.errno:
        case errno.EADDRINUSE:
            why = "another program listens there. Stop it, or choose another port"
        case errno.EACCES | errno.EPERM:
            why = "this user may not listen there. Choose a port from 1024 on"
        case _:
            why = f"{error.strerror or error}. Choose another address"
    return ConfigError(f"{option} {host_and_port(*address)}: {why}.")


def host_and_port(host: str, port: int) -> str:
    """An address as it stands in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
