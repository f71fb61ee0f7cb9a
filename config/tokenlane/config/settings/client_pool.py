"""Finds the pool and the pool's keys for a client that was created without them, as the command line does."""

from __future__ import annotations

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.settings.values import RedisSettings


def pool_of_client() -> tuple[RedisSettings, str]:
    """Return the Redis settings and the name of the pool.

    They come from the environment, else from llm.toml, else from this user's running `tokenlane up`.

    Raises:
        ConfigError: none of the three names a pool, or a setting is wrong.
    """
    from tokenlane.config.settings import load  # slow, so clients that were given a URL and keys do not import it

    try:
        return load.find_pool(), load.pool_name()
    except load.NoPool:
        raise ConfigError(
            "No pool is configured, and you have no `tokenlane up` running. Pass a URL to the client, such as "
            "redis://HOST:6379, set TOKENLANE_REDIS_URL or `url` in [redis] of llm.toml, or start `tokenlane up`."
        ) from None


def keys_of_client() -> KeyRing:
    """Return the pool's keys for a client that was given a URL and no keys.

    They come from TOKENLANE_POOL_KEY, else from `key_file` in [redis] of llm.toml; else the ring is empty.

    Raises:
        ConfigError: a setting or the key file is wrong.
    """
    from tokenlane.config.settings import load

    return load.pool_keys()
