"""Where the pool of an agent is that names none: as the command line finds it.

The command line's reading of llm.toml and of a running `tokenlane up` comes with the extra [cli], and is imported only
when it is asked for. Without it there are TOKENLANE_REDIS_URL, TOKENLANE_POOL and TOKENLANE_POOL_KEY.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.paths import empty_variable
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.settings.values import RedisSettings

_READ = ("TOKENLANE_REDIS_URL", "TOKENLANE_POOL", "TOKENLANE_POOL_KEY")
_EXTRA = ("platformdirs", "pydantic_settings")


@dataclass(frozen=True)
class Place:
    """A pool: its Redis, with the keys given for it, and its name."""

    redis: RedisSettings
    pool: str


def find_place() -> Place:
    """Return the pool that environment, llm.toml or this user's running `tokenlane up` name, in this order.

    Raises:
        ConfigError: none does, or what does so is wrong. It says what to do.
    """
    try:
        from tokenlane.config.settings import load
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        return _named_by_environment()
    try:
        return Place(load.find_pool(), load.pool_name())
    except load.NoPool:
        raise ConfigError(
            "No pool was named, and no `tokenlane up` of this user runs: give the client a URL, redis://HOST:6379, or "
            "set TOKENLANE_REDIS_URL, or url in the section [redis] of llm.toml, or start a pool with `tokenlane up`."
        ) from None


def _named_by_environment() -> Place:
    for variable in _READ:
        if os.environ.get(variable) == "":
            raise empty_variable(variable)
    url = os.environ.get("TOKENLANE_REDIS_URL")
    if url is None:
        raise ConfigError(
            "No pool was named: give the client a URL, redis://HOST:6379, or set TOKENLANE_REDIS_URL. To have llm.toml "
            "read and a running `tokenlane up` found: pip install 'tokenlane[cli]'."
        )
    try:
        keys = KeyRing.parse(os.environ.get("TOKENLANE_POOL_KEY", ""))
    except ValueError as error:
        raise ConfigError(f"TOKENLANE_POOL_KEY holds {error}.") from None
    return Place(RedisSettings(url, keys), os.environ.get("TOKENLANE_POOL", "main"))
