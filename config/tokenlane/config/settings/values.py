"""Settings as frozen values. `load` makes them; libraries take them and never read the environment."""

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
"""The name of the fallback lane, which any worker may also serve, for texts that no other lane can embed."""
TOY_PROVIDER = "builtin"
"""The provider of the small model that `up` serves if it finds no model server."""

NAME_RULE = "use 1 to 128 of A-Z a-z 0-9 _ . @ -, a letter or digit first"

# The password after a user's name, also where the scheme was forgotten; a name without a password, which is most often
# a password whose colon was forgotten; and secrets in the query.
_SECRETS = (
    re.compile(r"(?:://|^(?![\w+.-]+://))[^:]*:(.*)@", re.DOTALL),
    re.compile(r"(?:(?<!unix)://|unix://(?!/)|^(?![\w+.-]+://))([^:]+)@(?!.*:.*@)", re.DOTALL),
    re.compile(r"(?:^|[?&])[a-z_-]*(?:password|token|key|secret)=([^&]*)", re.IGNORECASE),
)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.@-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}")
_SCHEMES = ("redis", "rediss", "unix")


def is_name(text: str) -> bool:
    """Whether a pool, a lane or an agent may have this name."""
    return _NAME.fullmatch(text) is not None


def masked_url(url: str) -> str:
    """Return `url` with *** for every password, every key, and a user without a password: safe to print and to log."""
    shown, end = "", 0
    for start, stop in sorted(match.span(1) for secret in _SECRETS for match in secret.finditer(url)):
        if start >= end:
            shown += f"{url[end:start]}***"
        end = max(end, stop)
    return shown + url[end:]


def no_port(url: str) -> bool:
    """Whether a URL has an impossible port: 0, or above 65535."""
    try:
        return urlsplit(url).port == 0
    except ValueError as error:  # other errors may be about the password
        return str(error).startswith("Port out of range")


def no_host(url: str) -> bool:
    """Whether an http or https URL has an impossible host: a single bracket, a blank, an empty label, or a label of
    more than 63 bytes."""
    authority = url.partition("://")[2].partition("/")[0]
    try:
        host = urlsplit(f"//{authority.rpartition('@')[2]}").hostname or ""  # a password may hold anything
        host.encode("idna")
    except ValueError:
        return True
    return not host or any(character.isspace() for character in host)


@dataclass(frozen=True, repr=False)
class RedisSettings:
    """The URL of the pool's Redis, and the keys given for it. Without keys, those next to its socket are used.

    Raises:
        ConfigError: redis-py cannot open `url`.
    """

    url: str
    keys: KeyRing = field(default_factory=KeyRing)

    def __post_init__(self) -> None:
        if self.url.partition("://")[0] not in _SCHEMES:
            raise ConfigError(
                f"{masked_url(self.url)!r} is not a Redis URL. "
                "Use redis://host:6379, rediss://host:6379 (TLS) or unix:///path/to/socket."
            )
        if no_port(self.url):
            raise ConfigError(f"{masked_url(self.url)!r} has an impossible port: use one from 1 to 65535.")

    @property
    def safe_url(self) -> str:
        """The URL without its password."""
        return masked_url(self.url)

    def __repr__(self) -> str:
        return f"RedisSettings({self.safe_url!r})"


@dataclass(frozen=True)
class LaneSettings:
    """One lane: a model server's endpoint, and how long each stage of an answer may take.

    Raises:
        ConfigError: a value is out of range.
    """

    name: str
    provider: str
    endpoint: str | None = field(default=None, repr=False)  # None: the provider's default; may hold a password
    models: tuple[str, ...] = ()  # empty: all that the model server has
    capacity: int | None = None  # requests at once; None: the provider's choice
    api_key: SecretStr | None = None
    api_key_from: str | None = None  # the environment variable that holds the key
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 300.0  # a cold model loads before its first token
    token_timeout_s: float = 60.0  # between two tokens
    total_timeout_s: float = 3600.0  # one attempt
    max_input_tokens: int | None = None  # the longest prompt, estimated; None: no limit
    auto_pull: bool = False  # pull a missing model when a request asks for it
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)  # by model, the digest its content must have

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ConfigError(f"Lane name {self.name!r}: {NAME_RULE}.")
        if self.name == FALLBACK_LANE and self.provider != FALLBACK_PROVIDER:
            raise ConfigError(f"Lane name {self.name!r} belongs to the fallback model: choose another.")
        if self.capacity is not None and self.capacity < 1:
            raise ConfigError(f"Lane {self.name!r}: capacity is {self.capacity}, must be at least 1.")
        for stage in ("connect", "first_token", "token", "total"):
            if getattr(self, f"{stage}_timeout_s") <= 0:
                raise ConfigError(f"Lane {self.name!r}: {stage}_timeout_s must be above 0.")


@dataclass(frozen=True)
class CacheSettings:
    """The file in which a host caches vectors, and its size limit."""

    path: Path
    limit_bytes: int


def default_lane(provider: str) -> str:
    """Return the default name of a lane on this host: `<hostname>-<provider>`."""
    host = _NOT_IN_A_NAME.sub("-", socket.gethostname()).lstrip("_.@-") or "host"
    return f"{host[: 127 - len(provider)]}-{provider}"
