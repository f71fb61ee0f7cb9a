"""URLs of a Redis server that Sentinels watch: `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB`, with TLS `rediss+…`.

The addresses are those of the Sentinels, which know the address of the service's primary. The user and the password
before the addresses are for the servers. Sentinels have their own, `?sentinel_username=` and `?sentinel_password=`. All
other options are for the servers, and those for TLS, `ssl_…`, for both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl, quote, unquote, urlencode

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")

_PORT = 26379
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s\[\]:;@]+))(?::([0-9]{1,9}))?")
_USERNAME, _PASSWORD = "sentinel_username", "sentinel_password"
_FORM = "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"


def is_sentinel_url(url: str) -> bool:
    """Whether a URL names Sentinels instead of a Redis server."""
    return url.partition("://")[0] in SENTINEL_SCHEMES


@dataclass(frozen=True, repr=False)
class SentinelUrl:
    """The parts of a URL that names Sentinels. Get it from `parse`.

    Attributes:
        addresses: the host and the port of each Sentinel.
        service: the name by which the Sentinels know the servers.
    """

    addresses: tuple[tuple[str, int], ...]
    service: str
    _scheme: str  # of the servers' URLs
    _user: str  # quoted, with its @
    _database: str
    _options: Sequence[tuple[str, str]]

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Read a URL.

        Raises:
            ValueError: the URL is wrong. The message continues a sentence that begins with the URL; it quotes nothing.
        """
        scheme, _, rest = url.partition("://")
        rest, _, query = rest.partition("#")[0].partition("?")
        authority, _, path = rest.partition("/")
        user, at, hosts = authority.rpartition("@")
        if "@" in user:
            raise ValueError(
                "has more than one @ before the service: write the user and the password once, before all addresses, "
                "and an @ in the password as %40"
            )
        service, _, database = path.partition("/")
        if not service:
            raise ValueError(f"names no service: use {_FORM}; `SENTINEL MASTERS` lists the names of the services")
        options = parse_qsl(query, keep_blank_values=True)
        if not re.fullmatch(r"[0-9]{0,9}", next((value for name, value in options if name == "db"), database)):
            raise ValueError(f"has a database that is not a number: use {_FORM}/0")
        if any(name.startswith("sentinel_") and name not in (_USERNAME, _PASSWORD) for name, _ in options):
            raise ValueError(f"has an unknown option for Sentinels: use {_USERNAME} or {_PASSWORD}")
        addresses = tuple(map(_parse_address, hosts.split(",")))
        return cls(addresses, unquote(service), scheme.partition("+")[0], user + at, database, options)

    def server_url(self, host: str, port: int) -> str:
        """The URL of a server of the service. A secret, because it contains the password."""
        options = urlencode([(name, value) for name, value in self._options if name not in (_USERNAME, _PASSWORD)])
        return f"{self._scheme}://{self._user}{_netloc(host, port)}/{self._database}{options and f'?{options}'}"

    @cached_property
    def sentinel_urls(self) -> tuple[str, ...]:
        """The URL of each Sentinel. Secrets, because they contain the password."""
        given = dict(self._options)
        name, password = (quote(given.get(option, ""), safe="") for option in (_USERNAME, _PASSWORD))
        user = f"{name}:{password}@" if password else ""
        options = urlencode([(name, value) for name, value in self._options if name.startswith("ssl_")])
        return tuple(
            f"{self._scheme}://{user}{_netloc(*address)}{options and f'?{options}'}" for address in self.addresses
        )

    def __repr__(self) -> str:
        return f"<SentinelUrl of {self.service!r}>"


def _parse_address(text: str) -> tuple[str, int]:
    parts = _ADDRESS.fullmatch(text)
    if parts is None:
        raise ValueError(f"has a malformed address of a Sentinel: use {_FORM}, and [ ] around an IPv6 address")
    port = int(parts[3] or _PORT)
    if not 0 < port < 65536:
        raise ValueError("has an impossible port: use one from 1 to 65535")
    return parts[1] or parts[2], port


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
