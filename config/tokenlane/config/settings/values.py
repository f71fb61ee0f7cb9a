"""Settings as frozen values, made by `load`. Libraries take these and never read the environment."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing

FALLBACK_LANE, FALLBACK_PROVIDER = "fallback", "fasttext"
"""The lane that every worker serves beside its own, for texts that no other lane can turn into vectors."""
TOY_PROVIDER = "builtin"
"""The provider of the small model that `up` serves where it finds no model server."""

NAME_RULE = "use 1 to 128 of A-Z a-z 0-9 _ . @ -, a letter or digit first"

# What follows the user, whatever the user's name holds, also where the scheme was forgotten; and in the query.
_SECRETS = (
    re.compile(r"(?:://|^(?![\w+.-]+://))[^:]*:(.*)@", re.DOTALL),
    re.compile(r"(?:^|[?&])[a-z_-]*(?:password|token|key|secret)=([^&]*)", re.IGNORECASE),
)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.@-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}")
_SCHEMES = ("redis", "rediss", "unix")


def is_name(text: str) -> bool:
    """Whether a pool, a lane or an agent may be called so."""
    return _NAME.fullmatch(text) is not None


def masked(url: str) -> str:
    """Return `url` with every password and key in it as ***: safe to print and to log."""
    shown, end = "", 0
    for start, stop in sorted(found.span(1) for secret in _SECRETS for found in secret.finditer(url)):
        if start >= end:
            shown += f"{url[end:start]}***"
        end = max(end, stop)
    return shown + url[end:]


def no_port(url: str) -> bool:
    """Whether a URL names a port that there cannot be: 0, or one above 65535."""
    try:
        return urlsplit(url).port == 0
    except ValueError as error:  # others are of what may be a password
        return str(error).startswith("Port out of range")


def no_host(url: str) -> bool:
    """Whether an http or https URL names a host that there cannot be: a bracket alone, a blank, or a name that cannot
    be looked up, with an empty label or one of more than 63 bytes."""
    authority = url.partition("://")[2].partition("/")[0]
    try:
        host = urlsplit(f"//{authority.rpartition('@')[2]}").hostname or ""  # a password before it may hold anything
        host.encode("idna")
    except ValueError:
        return True
    return not host or any(character.isspace() for character in host)


@dataclass(frozen=True, repr=False)
class RedisSettings:
    """Where the pool's Redis is, and the keys given for it; without any, those beside its socket are used.

    Raises:
        ConfigError: if `url` is not one redis-py can open.
    """

    url: str
    keys: KeyRing = field(default_factory=KeyRing)

    def __post_init__(self) -> None:
        if self.url.partition("://")[0] not in _SCHEMES:
            raise ConfigError(
                f"{masked(self.url)!r} is not a Redis URL. "
                "Use redis://host:6379, rediss://host:6379 (TLS) or unix:///path/to/socket."
            )
        if no_port(self.url):
            raise ConfigError(f"{masked(self.url)!r} has no port that can be: use one from 1 to 65535.")

    @property
    def safe_url(self) -> str:
        """The URL without its password."""
        return masked(self.url)

    def __repr__(self) -> str:
        return f"RedisSettings({self.safe_url!r})"


@dataclass(frozen=True)
class LaneSettings:
    """One lane: a back end's endpoint and how long each stage of an answer may take.

    Raises:
        ConfigError: if a value is out of range.
    """

    name: str
    provider: str
    endpoint: str | None = field(default=None, repr=False)  # None: the provider's own default; may hold a password
    models: tuple[str, ...] = ()  # none named: what the back end says it has
    capacity: int | None = None  # requests at once; None: what the provider says
    api_key: SecretStr | None = None
    api_key_from: str | None = None  # the environment variable that holds it
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 300.0  # a cold model loads before its first token
    token_timeout_s: float = 60.0  # between two tokens
    total_timeout_s: float = 3600.0  # of one attempt
    max_input_tokens: int | None = None  # the longest prompt, as estimated; None: no limit of ours
    auto_pull: bool = False  # a request for a model it lacks has it pulled
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)  # by model, what its content must be

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ConfigError(f"Lane name {self.name!r}: {NAME_RULE}.")
        if self.name == FALLBACK_LANE and self.provider != FALLBACK_PROVIDER:
            raise ConfigError(f"Lane name {self.name!r} is that of the fallback model: choose another one.")
        if self.capacity is not None and self.capacity < 1:
            raise ConfigError(f"Lane {self.name!r}: capacity is {self.capacity}, must be at least 1.")
        for stage in ("connect", "first_token", "token", "total"):
            if getattr(self, f"{stage}_timeout_s") <= 0:
                raise ConfigError(f"Lane {self.name!r}: {stage}_timeout_s must be above 0.")


@dataclass(frozen=True)
class CacheSettings:
    """The file in which a host keeps vectors, and the most it may hold."""

    path: Path
    limit_bytes: int


def default_lane(provider: str) -> str:
    """Return the name a lane has on this host unless it is given one: `<hostname>-<provider>`."""
    host = _NOT_IN_A_NAME.sub("-", socket.gethostname()).lstrip("_.@-") or "host"
    return f"{host[: 127 - len(provider)]}-{provider}"
