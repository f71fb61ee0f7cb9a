"""Settings as frozen values. `load` creates them for libraries, which never read the environment."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import SecretStr

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.host.sentinel_urls import SENTINEL_SCHEMES, SentinelUrl, is_sentinel_url

FALLBACK_LANE, FALLBACK_PROVIDER = "fallback", "fasttext"
"""The lane that embeds texts if no other lane can. Any worker may serve it besides its lane."""
TOY_PROVIDER = "builtin"
"""The provider of the small model that `tokenlane up` serves if it finds no model server."""

NAME_RULE = "use 1 to 128 characters of A-Z a-z 0-9 _ . @ -, beginning with a letter or digit"

# Three places of secrets in a URL: the password after a user's name, even if the URL has no scheme; a user's name
# without a password, which usually is a password whose colon was forgotten; and parameters of the query.
_SECRETS = (
    re.compile(r"(?:://|^(?![\w+.-]+://))[^:]*:(.*)@", re.DOTALL),
    re.compile(r"(?:(?<!unix)://|unix://(?!/)|^(?![\w+.-]+://))([^:]+)@(?!.*:.*@)", re.DOTALL),
    re.compile(r"(?:^|[?&])[a-z_-]*(?:pass(?:word|wd)?|token|key|secret)=([^&]*)", re.IGNORECASE),
)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.@-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}")
_SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES)


def is_name(text: str) -> bool:
    """Whether `text` is a valid name for a pool, a lane or an agent."""
    return _NAME.fullmatch(text) is not None


def masked_url(url: str) -> str:
    """Return a URL that is safe to log: passwords, keys, and users without a password become ***."""
    shown, end = "", 0
    for start, stop in sorted(match.span(1) for secret in _SECRETS for match in secret.finditer(url)):
        if start >= end:
            shown += f"{url[end:start]}***"
        end = max(end, stop)
    return shown + url[end:]


def has_impossible_port(url: str) -> bool:
    """Whether the port of a URL is 0 or above 65535."""
    try:
        return urlsplit(url).port == 0
    except ValueError as error:  # other errors may come from the password
        return str(error).startswith("Port out of range")


def redis_url_error(url: str) -> str | None:
    """What is wrong with a Redis URL of a known scheme, to follow the URL in a message; None if it is possible."""
    if not is_sentinel_url(url):
        return "has an impossible port: use one from 1 to 65535" if has_impossible_port(url) else None
    try:
        SentinelUrl.parse(url)
    except ValueError as error:
        return str(error)
    return None


def has_impossible_host(url: str) -> bool:
    """Whether the host of an http or https URL is impossible: empty, or with a single bracket, a blank, an empty label
    or a label of more than 63 bytes."""
    authority = url.partition("://")[2].partition("/")[0]
    try:
        host = (
            urlsplit(f"//{authority.rpartition('@')[2]}").hostname or ""
        )  # without the password, which may contain anything
        host.encode("idna")
    except ValueError:
        return True
    return not host or any(character.isspace() for character in host)


@dataclass(frozen=True, repr=False)
class RedisSettings:
    """The URL of the pool's Redis server, and the pool's keys. Without keys, those in the file next to the server's
    socket are used.

    Raises:
        ConfigError: the URL is wrong.
    """

    url: str
    keys: KeyRing = field(default_factory=KeyRing)

    def __post_init__(self) -> None:
        if self.url.partition("://")[0] not in _SCHEMES:
            raise ConfigError(
                f"{masked_url(self.url)!r} is not a Redis URL. "
                "Use redis://HOST:6379, rediss://HOST:6379 (TLS), unix:///PATH or redis+sentinel://HOST:26379/SERVICE."
            )
        if wrong := redis_url_error(self.url):
            raise ConfigError(f"{masked_url(self.url)!r} {wrong}.")

    @property
    def safe_url(self) -> str:
        """The URL without secrets, for logs and messages."""
        return masked_url(self.url)

    def __repr__(self) -> str:
        return f"RedisSettings({self.safe_url!r})"


@dataclass(frozen=True)
class LaneSettings:
    """One lane: the model server, its models and capacity, and the time limit of each stage of an answer.

    Raises:
        ConfigError: a value is out of range.
    """

    name: str
    provider: str
    endpoint: str | None = field(default=None, repr=False)  # None: the provider's default; may contain a password
    models: tuple[str, ...] = ()  # empty: every model of the model server
    capacity: int | None = None  # requests at once; None: the number that the model server reports
    api_key: SecretStr | None = None
    api_key_from: str | None = None  # the environment variable of the key
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 300.0  # a cold model loads before its first token
    token_timeout_s: float = 60.0  # between two tokens
    total_timeout_s: float = 3600.0  # one attempt
    max_input_tokens: int | None = None  # an estimate; longer prompts are refused; None: no limit
    metrics: str | None = None  # HOST or HOST:PORT at which the worker serves its metrics; None: nowhere
    auto_pull: bool = False  # pull a missing model when a request names it
    keep_kv: bool = False  # keep the KV cache of models in files while they are unloaded
    digests: Mapping[str, str] = field(default_factory=dict, hash=False)  # by model: the digest that it must have
    pinned_by: Mapping[str, str] = field(default_factory=dict, hash=False)  # by model: FILE:LINE of that digest

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ConfigError(f"Lane name {self.name!r}: {NAME_RULE}.")
        if self.name == FALLBACK_LANE and self.provider != FALLBACK_PROVIDER:
            raise ConfigError(f"Lane name {self.name!r} is reserved for the fallback model: choose another name.")
        if self.capacity is not None and self.capacity < 1:
            raise ConfigError(f"Lane {self.name!r}: capacity is {self.capacity}, but must be at least 1.")
        for stage in ("connect", "first_token", "token", "total"):
            if getattr(self, f"{stage}_timeout_s") <= 0:
                raise ConfigError(f"Lane {self.name!r}: {stage}_timeout_s must be above 0.")


TokenSpans: TypeAlias = Literal["off", "sampled", "all"]
"""Of which requests the batches of an answer are recorded as spans."""


@dataclass(frozen=True)
class TelemetrySettings:
    """What a process that exports spans records. `redis`: whether to record the Redis commands of requests."""

    tokens: TokenSpans = "sampled"
    redis: bool = False


@dataclass(frozen=True)
class HookSetting:
    """The name of a hook as `module:function`, and the source that set it."""

    name: str
    source: str


@dataclass(frozen=True)
class HookSettings:
    """The functions through which a worker passes answers and requests; None for no function."""

    token: HookSetting | None = None
    request: HookSetting | None = None


@dataclass(frozen=True)
class CacheSettings:
    """The file of a host's embedding cache, and its size limit."""

    path: Path
    limit_bytes: int


@dataclass(frozen=True)
class PluginSettings:
    """The directory of this host's prompt plugins, and the directory in which their machine code is kept."""

    directory: Path
    cache: Path


@dataclass(frozen=True)
class LogSettings:
    """How this process logs. `level`: None for the verb's own default. `format`: `auto` is text on a terminal, and JSON
    elsewhere."""

    level: Literal["debug", "info", "warning", "error"] | None = None
    format: Literal["auto", "text", "json"] = "auto"


def default_lane(provider: str) -> str:
    """Return the default name of a lane on this host: `<hostname>-<provider>`."""
    host = _NOT_IN_A_NAME.sub("-", socket.gethostname()).lstrip("_.@-") or "host"
    return f"{host[: 127 - len(provider)]}-{provider}"
