"""`tokenlane up --listen`: where it listens, and what is to be pasted on another machine."""

from __future__ import annotations

import ipaddress
import shlex
import socket
from urllib.parse import urlsplit

from tokenlane.config.exits import ConfigError
from tokenlane.config.poolkey import KeyRing

__all__ = ["bind_address", "for_whom", "known_as", "lines_to_paste"]

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


def for_whom(address: str) -> str:
    """Where the lines to paste are of use: what listens at a loopback address is out of other machines' reach."""
    if ipaddress.ip_address(address).is_loopback:
        return (
            f"At {address} only this machine gets in; --listen with another address of it lets others in. In another "
            "shell of it, for a worker there or an agent:"
        )
    return "On another machine, for a worker there or an agent:"


def lines_to_paste(url: str, pool: str, keys: KeyRing) -> str:
    """What makes a second machine's shell part of the pool. Holds the password and the keys."""
    settings = {"TOKENLANE_REDIS_URL": url, "TOKENLANE_POOL_KEY": keys.reveal()}
    if pool != "main":
        settings["TOKENLANE_POOL"] = pool
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in settings.items())
    return f'export {exports}\ntokenlane worker\ntokenlane chat "Name three primes." --role planner'
