"""Translates errors from Sentinels, and from the primary that they name, into tokenlane's errors."""

from __future__ import annotations

from redis import exceptions as redis_errors

from tokenlane.routing.contract.errors import LlmError, PoolUnavailable

from .connection_classes import Demoted
from .errors import translate_error, why_unopened
from .refusals import find_refusal, refusal_code, translate_refusal
from .sentinels import Address, NoPrimary, SentinelAnswer, Sentinels
from .tls import causes, tls_trouble

_ADVICE = "If it has failed, the Sentinels soon name another primary."
_REFUSALS = {
    "NOAUTH": "requires a password: add ?sentinel_password=PASSWORD to the URL",
    "WRONGPASS": "does not accept this user and password: check sentinel_username and sentinel_password in the URL",
    "NOPERM command": "does not let this user ask for the primary: allow it with ACL SETUSER, +sentinel",
    "UNKNOWN": "is no Sentinel but a Redis server: check the port, which usually is 26379",
}
"""What a Sentinel's refusals mean, by their keys in `REFUSALS`. Others mean what they mean from a server."""


def translate_sentinel_error(
    error: redis_errors.RedisError | OSError, sentinels: Sentinels, action: str = ""
) -> LlmError:
    """Translate an error from redis-py that came from Sentinels, or from the primary that they name.

    Args:
        action: the command or script that failed, for messages; '' if it is unknown.
    """
    if unnamed := next((it for it in causes(error) if isinstance(it, NoPrimary)), None):
        # All may have failed in different ways: a reply says more than no reply.
        telling = max(unnamed.answers, key=_has_replied)
        return PoolUnavailable(f"The Sentinels name no primary: {sentinel_trouble(telling, sentinels)}.")
    where = str(sentinels)
    if sentinels.address is not None:
        where = f"{address_text(sentinels.address)} (the primary of {sentinels.url.service!r})"
    if isinstance(error, Demoted):
        return PoolUnavailable(
            f"The Redis server at {where} is a replica and accepts no writes: try again later, when the Sentinels name "
            "the new primary.",
            retryable=True,
            retry_after_s=1.0,
        )
    return translate_error(error, sentinels.connection_url, where, _ADVICE, action)


def sentinel_trouble(answer: SentinelAnswer, sentinels: Sentinels) -> str:
    """Why a Sentinel names no primary, as a clause; '' if it names one."""
    where, error = address_text(answer.sentinel), answer.error
    if error is None and answer.primary is not None:
        return ""
    if error is None:
        service = sentinels.url.service
        return f"the Sentinel at {where} does not know the service {service!r}; `SENTINEL MASTERS` lists its services"
    if words := _REFUSALS.get(refusal_code(_refusal(error) or error)):
        return f"the Sentinel at {where} {words}"
    if refused := translate_refusal(_refusal(error) or error, where):
        return refused.message.removesuffix(".")
    if isinstance(error, redis_errors.InvalidResponse):
        return f"the server at {where} is no Sentinel: check the port, which usually is 26379"
    if sentinels.connection_url.startswith("rediss") and (trouble := tls_trouble(error, f"{where} (a Sentinel)")):
        return trouble.removesuffix(".")
    why = why_unopened(error) or "check that it is running and not overloaded."
    return f"no Sentinel answers at {where}: {why.removesuffix('.')}"


def address_text(address: Address) -> str:
    """HOST:PORT, for messages."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(error: BaseException) -> BaseException | None:
    """The refusal among an error and its causes; None if there is none."""
    return next((it for it in causes(error) if find_refusal(it)), None)


def _has_replied(answer: SentinelAnswer) -> bool:
    return answer.error is None or _refusal(answer.error) is not None
