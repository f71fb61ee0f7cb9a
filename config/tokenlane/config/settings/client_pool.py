"""Finds the pool for a client that was created without a URL: the same pool as the command line's."""

from __future__ import annotations

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import RedisSettings


def pool_of_client() -> tuple[RedisSettings, str]:
    """Return the Redis settings and the name of the pool.

    They come from the environment, else from llm.toml, else from this user's running `tokenlane up`.

    Raises:
        ConfigError: none of the three names a pool, or a setting is wrong.
    """
    from tokenlane.config.settings import load  # slow, so only clients without a URL import it

    try:
        return load.find_pool(), load.pool_name()
    except load.NoPool:
        raise ConfigError(
            "No pool is configured, and you have no `tokenlane up` running. Pass a URL to the client, such as "
            "redis://HOST:6379, set TOKENLANE_REDIS_URL or `url` in [redis] of llm.toml, or start `tokenlane up`."
        ) from None
