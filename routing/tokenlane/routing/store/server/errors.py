"""Translates redis-py's errors into tokenlane's, which say what to do."""

from __future__ import annotations

from redis import exceptions as redis_errors

from tokenlane.config.host.connection_errors import why_unreached
from tokenlane.config.settings.values import masked_url
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable

from .redis_py import LOST
from .refusals import refused
from .tls import causes, tls_trouble


def as_ours(error: redis_errors.RedisError | OSError, url: str) -> LlmError:
    """The error of tokenlane's that a Redis error means."""
    where = masked_url(url)
    if isinstance(error, LOST) and isinstance(error.__cause__, redis_errors.RedisError):
        return as_ours(error.__cause__, url)  # as redis-py wraps what a server on a unix socket has answered
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
    """Why no connection could be made, if that is where the error came from; '' if it is not clear."""
    _, *earlier = causes(error)
    reasons = (it for it in earlier if isinstance(it, OSError) and not isinstance(it, TimeoutError))
    return next(map(why_unreached, reasons), "")  # a TimeoutError may be of the command itself


def _hung_up(error: BaseException) -> bool:
    """Whether something accepted the connection, and closed it."""
    return any(
        "closed by server" in str(it) or isinstance(it, ConnectionResetError | BrokenPipeError) for it in causes(error)
    )
