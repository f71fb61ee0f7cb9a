"""Reads the environment into settings values. Command lines and the worker's settings call it; libraries never do.

    TOKENLANE_REDIS_URL   the pool's Redis
    TOKENLANE_POOL        the pool's name (default: main)
    TOKENLANE_POOL_KEY    the pool's keys, the newest first (default: the one beside the socket of `tokenlane up`)
    TOKENLANE_LANE        the lane's name (default: <hostname>-<provider>)
    TOKENLANE_PROVIDER    the kind of back end (default: builtin)
    TOKENLANE_ENDPOINT    the back end's URL (default: the provider's own)
    TOKENLANE_MODEL       the models it serves, comma separated
    TOKENLANE_CAPACITY    requests at once
    TOKENLANE_API_KEY     what the back end wants as a bearer token; only here, since arguments show in process lists
    SC_DEBUG              `llm`: log requests and answers, prompts included

An argument given in code or on the command line wins over the environment.
"""

from __future__ import annotations

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenlane.config.exits import ConfigError
from tokenlane.config.poolkey import KeyRing
from tokenlane.config.running import announced_socket
from tokenlane.config.values import LaneSettings, RedisSettings, default_lane

__all__ = ["NoPool", "debugging", "find_pool", "lane_settings", "pool_keys", "pool_name"]


class NoPool(ConfigError):
    """No Redis was named and no `tokenlane up` of this user runs."""


class _Environment(BaseSettings):
    # An empty variable counts as not set. Errors must not quote the input: it may be a key.
    model_config = SettingsConfigDict(env_prefix="TOKENLANE_", env_ignore_empty=True, hide_input_in_errors=True)

    redis_url: str | None = None
    pool_key: SecretStr | None = None
    pool: str = Field(default="main", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$")
    lane: str | None = None
    provider: str = "builtin"
    endpoint: str | None = None
    model: str = ""
    capacity: int | None = None
    api_key: SecretStr | None = None


class _Debug(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SC_", env_ignore_empty=True)

    debug: str = ""


def debugging(subject: str) -> bool:
    """Whether SC_DEBUG, a comma separated list, names the subject."""
    return subject in (name.strip() for name in _Debug().debug.split(","))


def find_pool(explicit: str | None = None) -> RedisSettings:
    """Return the pool's Redis: `explicit`, else TOKENLANE_REDIS_URL, else that of this user's running `tokenlane up`.

    Raises:
        NoPool: if there is none of the three.
        ConfigError: if the URL is not one of Redis.
    """
    url = explicit or _environment().redis_url
    if url:
        return RedisSettings(url, pool_keys())
    socket = announced_socket()
    if socket is None:
        raise NoPool(
            "No pool to talk to. Start one here with `tokenlane up`, "
            "or name one with --redis redis://host:6379 or TOKENLANE_REDIS_URL."
        )
    return RedisSettings(f"unix://{socket}", pool_keys())


def pool_keys() -> KeyRing:
    """Return the keys in TOKENLANE_POOL_KEY; none if it is not set.

    Raises:
        ConfigError: it holds something else.
    """
    text = _environment().pool_key
    try:
        return KeyRing.parse(text.get_secret_value()) if text else KeyRing()
    except ValueError as error:
        raise ConfigError(f"TOKENLANE_POOL_KEY holds {error}.") from None


def pool_name(explicit: str | None = None) -> str:
    """Return the pool's name: `explicit`, else TOKENLANE_POOL, else `main`."""
    return explicit or _environment().pool


def lane_settings(
    *,
    lane: str | None = None,
    provider: str | None = None,
    endpoint: str | None = None,
    models: tuple[str, ...] = (),
    capacity: int | None = None,
) -> LaneSettings:
    """Return this process's lane, what is given here winning over the environment.

    Raises:
        ConfigError: if a value cannot be used.
    """
    found = _environment()
    kind = provider or found.provider
    return LaneSettings(
        name=lane or found.lane or default_lane(kind),
        provider=kind,
        endpoint=endpoint or found.endpoint,
        models=models or tuple(name.strip() for name in found.model.split(",") if name.strip()),
        capacity=found.capacity if capacity is None else capacity,
        api_key=found.api_key,
    )


def _environment() -> _Environment:
    try:
        return _Environment()
    except ValidationError as error:
        wrong = "; ".join(f"TOKENLANE_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"Environment: {wrong}") from None
