"""What the errors of redis-py mean: errors of ours, which say what to do."""

from __future__ import annotations

from redis import exceptions as redis_errors

from tokenlane.config.host.connection_errors import why_unreached
from tokenlane.config.settings.values import masked
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable

from .redis_py import LOST
from .refusals import refused
from .tls import tls_trouble


def as_ours(error: redis_errors.RedisError | OSError, url: str) -> LlmError:
    """What a Redis error means."""
    where = masked(url)
    if isinstance(error, LOST) and isinstance(error.__cause__, redis_errors.RedisError):
        return as_ours(error.__cause__, url)  # how redis-py tells of a unix socket what the server said
    if (ours := refused(error, where)) is not None:
        return ours
    if isinstance(error, redis_errors.InvalidResponse):
        tls = "" if url.startswith("rediss://") else "; for one that speaks TLS the URL is rediss://"
        return PoolUnavailable(f"what answers at {where} is not a Redis server: check host and port{tls}")
    if url.startswith("rediss://") and (trouble := tls_trouble(error, where)):
        return PoolUnavailable(trouble)
    if isinstance(error, LOST) and _hung_up(error):
        return PoolUnavailable(
            f"the server at {where} closed the connection without an answer: it may take no more clients "
            "(maxclients), or speak TLS alone (rediss://)",
            retryable=True,
            retry_after_s=1.0,
        )
    if isinstance(error, LOST):
        why = _why_unreached(error)
        what = f"{why} Or start one here" if why else "start one"
        return PoolUnavailable(f"no Redis server answers at {where}: {what} with `tokenlane up`, or check the URL")
    return PoolUnavailable(f"the Redis server at {where} was not understood: {type(error).__name__}")


def _why_unreached(error: BaseException) -> str:
    """What kept a connection from being made, where redis-py's error came of that; nothing if it is not clear."""
    before = error.__cause__ or error.__context__
    if isinstance(before, OSError) and not isinstance(before, TimeoutError):  # a command's time may have passed
        return why_unreached(before)
    return _why_unreached(before) if before is not None else ""


def _hung_up(error: BaseException) -> bool:
    """Whether somebody was there, and hung up."""
    before = error.__cause__ or error.__context__
    words = "closed by server" in str(error) or isinstance(error, ConnectionResetError | BrokenPipeError)
    return words or (before is not None and _hung_up(before))
