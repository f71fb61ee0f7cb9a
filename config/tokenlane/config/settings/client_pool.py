"""Finds the pool of a client without a URL: the pool that the command line would use."""

from __future__ import annotations

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import RedisSettings


def pool_of_client() -> tuple[RedisSettings, str]:
    """Return the Redis and the name of the pool that environment, llm.toml or this user's running `tokenlane up` name,
    in this order.

    Raises:
        ConfigError: none of them names a pool, or a setting is wrong.
    """
    from tokenlane.config.settings import load  # only a client that names no pool pays for it

    try:
        return load.find_pool(), load.pool_name()
    except load.NoPool:
        raise ConfigError(
            "No pool was named, and this user runs no `tokenlane up`: give the client a URL, redis://HOST:6379, or set "
            "TOKENLANE_REDIS_URL, or url in the section [redis] of llm.toml, or start a pool with `tokenlane up`."
        ) from None
