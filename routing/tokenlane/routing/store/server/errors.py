"""Translates redis-py's errors into tokenlane's errors, which include advice."""

from __future__ import annotations

from redis import exceptions as redis_errors

from tokenlane.config.host.connection_errors import why_unreached
from tokenlane.config.settings.values import masked_url
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable

from .redis_py import CONNECTION_ERRORS
from .refusals import find_refusal, translate_refusal
from .tls import causes, tls_trouble


def translate_error(error: redis_errors.RedisError | OSError, url: str) -> LlmError:
    """Translate an error from redis-py into one of tokenlane's."""
    where = masked_url(url)
    if isinstance(error, CONNECTION_ERRORS) and isinstance(error.__cause__, redis_errors.RedisError):
        return translate_error(error.__cause__, url)  # redis-py wraps errors from a server on a unix socket in this way
    if (ours := translate_refusal(error, where)) is not None:
        return ours
    if isinstance(error, redis_errors.InvalidResponse):
        tls = "" if url.startswith("rediss://") else "; for a Redis server with TLS, use rediss:// in the URL"
        return PoolUnavailable(f"the server at {where} is not a Redis server: check host and port{tls}")
    if url.startswith("rediss://") and (trouble := tls_trouble(error, where)):
        return PoolUnavailable(trouble)
    if isinstance(error, CONNECTION_ERRORS) and _hung_up(error):
        return PoolUnavailable(
            f"the server at {where} closed the connection without an answer: it may have too many clients "
            "(maxclients), or accept only TLS (rediss://)",
            retryable=True,
            retry_after_s=1.0,
        )
    if isinstance(error, CONNECTION_ERRORS):
        why = _why_unreached(error)
        what = f"{why} `tokenlane up` starts one here." if why else "start one with `tokenlane up`, or check the URL"
        return PoolUnavailable(f"no Redis server answers at {where}: {what}")
    return PoolUnavailable(f"the Redis server at {where} gave an unexpected answer: {type(error).__name__}")


def is_unreachable(error: LlmError) -> bool:
    """Whether an error from `Commands` means that no server answered, and not that a server refused."""
    cause = error.__cause__
    wrapped = cause is not None and isinstance(cause.__cause__, redis_errors.RedisError)
    return isinstance(cause, CONNECTION_ERRORS) and not wrapped and find_refusal(cause) is None


def _why_unreached(error: BaseException) -> str:
    """Why the connection could not be made; '' if the error does not show a reason."""
    _, *earlier = causes(error)
    reasons = (it for it in earlier if isinstance(it, OSError) and not isinstance(it, TimeoutError))
    return next(map(why_unreached, reasons), "")  # a TimeoutError may come from the command and not from connecting


def _hung_up(error: BaseException) -> bool:
    """Whether the server accepted the connection and then closed it."""
    return any(
        "closed by server" in str(it) or isinstance(it, ConnectionResetError | BrokenPipeError) for it in causes(error)
    )
