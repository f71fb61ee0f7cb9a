"""Translates redis-py's errors into tokenlane's errors, which say what to do."""

from __future__ import annotations

import re

from redis import exceptions as redis_errors

from tokenlane.config.host.connection_errors import why_unreached
from tokenlane.config.settings.values import masked_url
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable

from .connection_classes import NoReply
from .redis_py import CONNECTION_ERRORS
from .refusals import find_refusal, translate_refusal
from .tls import CLIENT_CERTIFICATE, causes, tls_trouble

_USER = re.compile(r"[a-z+]+://([^:@/]+):")
_START_ONE = "`tokenlane up` starts a server on this host."


def translate_error(
    error: redis_errors.RedisError | OSError, url: str, where: str = "", advice: str = _START_ONE, action: str = ""
) -> LlmError:
    """Translate an error from redis-py into one of tokenlane's errors.

    Args:
        url: the server's URL.
        where: the server, for messages; by default the URL without the password.
        advice: what to do if the server cannot be reached, as a sentence.
        action: the command or script that failed, for messages; '' if it is unknown.
    """
    where = where or masked_url(url)
    if isinstance(error, CONNECTION_ERRORS) and isinstance(error.__cause__, redis_errors.RedisError):
        return translate_error(
            error.__cause__, url, where, advice, action
        )  # how redis-py wraps errors on a unix socket
    user = _USER.match(masked_url(url))
    if (ours := translate_refusal(error, where, user[1] if user else "", action)) is not None:
        return ours
    if isinstance(error, NoReply):
        return PoolUnavailable(
            f"The Redis server at {where} accepts connections, but does not answer within {error.seconds:g} s: it "
            "hangs, is paused or overloaded, or another program has this port; check the server's process and its log."
        )
    uses_tls = url.startswith("rediss")
    if isinstance(error, redis_errors.InvalidResponse):
        tls = "" if uses_tls else "; for a Redis server with TLS, use rediss:// in the URL"
        return PoolUnavailable(
            f"The server at {where} is not a Redis server: check the host and the port in the URL{tls}."
        )
    if uses_tls and (trouble := tls_trouble(error, where)):
        return PoolUnavailable(trouble)
    if isinstance(error, CONNECTION_ERRORS) and _hung_up(error):
        remedy = CLIENT_CERTIFICATE if uses_tls else "use rediss:// in the URL if the server accepts only TLS"
        return PoolUnavailable(
            f"The server at {where} closed the connection without a reply: {remedy}, or raise its maxclients if it has "
            "too many clients.",
            retryable=True,
            retry_after_s=1.0,
        )
    if isinstance(error, CONNECTION_ERRORS):
        why = why_unopened(error)
        what = f"{why} {advice}" if why else f"check the URL. {advice}"
        return PoolUnavailable(f"No Redis server answers at {where}: {what}")
    return PoolUnavailable(
        f"The Redis server at {where} sent an unexpected reply ({type(error).__name__}): check its version and its log."
    )


def is_unreachable(error: LlmError) -> bool:
    """Whether an error from `Commands` means that no server answered; false if a server answered and refused."""
    cause = error.__cause__
    wrapped = cause is not None and isinstance(cause.__cause__, redis_errors.RedisError)
    return isinstance(cause, CONNECTION_ERRORS) and not wrapped and find_refusal(cause) is None


def why_unopened(error: BaseException) -> str:
    """Why the connection could not be opened; '' if the error does not show the reason."""
    _, *earlier = causes(error)
    reasons = (it for it in earlier if isinstance(it, OSError) and not isinstance(it, TimeoutError))
    return next(map(why_unreached, reasons), "")  # a TimeoutError may come from a command


def _hung_up(error: BaseException) -> bool:
    """Whether the server accepted the connection and then closed it."""
    return any(
        "closed by server" in str(it) or isinstance(it, ConnectionResetError | BrokenPipeError) for it in causes(error)
    )
