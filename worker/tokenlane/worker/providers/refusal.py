"""What a back end's error answer means, whether it came as an HTTP status or inside a stream.

The back end's own words may quote the prompt, so they go into `detail` and nowhere else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pydantic_core

from tokenlane.routing.errors import (
    BadRequest,
    ContextTooLong,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RateLimited,
    Timeout,
    Unauthorized,
)

__all__ = ["MAX_DETAIL_BYTES", "refusal", "refusal_in_stream", "retry_after_s"]

MAX_DETAIL_BYTES = 2048
LONGEST_RETRY_AFTER_S = 86_400.0

# llama.cpp's type, OpenAI's code, then phrases: vLLM's, llama.cpp's, LM Studio's, Ollama's two, TGI's.
_TOO_LONG = (
    b"exceed_context_size_error",
    b"context_length_exceeded",
    b"maximum context length",
    b"available context size",
    b"fit in context length",
    b"prompt is longer than the context length",
    b"input length exceeds the context length",
    b"`max_new_tokens` must be <=",
)

_NO_ROUTE = b'{"detail":"NotFound"}'
"""What vLLM's framework says, without its spaces; of an unknown model it says more."""


def refusal(status: int, body: bytes, retry_after: str | None = None) -> LlmError:
    """The error an HTTP answer other than 200 stands for.

    Args:
        retry_after: the header of that name.
    """
    if status == 404 and b"".join(body.split()) == _NO_ROUTE:
        error: LlmError = BadRequest(
            "The back end has no such route (HTTP 404): it was started for another kind of work, or is another kind of "
            "server than its provider."
        )
    else:
        error = ContextTooLong() if _is_too_long(status, body) else _by_status(status)
    error.detail = _bounded(body)
    error.retry_after_s = retry_after_s(retry_after)
    return error


def refusal_in_stream(error: object) -> LlmError:
    """The error that an `error` member of a streamed event stands for; without a status in it, the back end failed."""
    code = error.get("code") if isinstance(error, dict) else None
    body = pydantic_core.to_json(error)
    if isinstance(code, int) and 400 <= code <= 599:
        return refusal(code, body)
    if _is_too_long(400, body):
        return refusal(400, body)
    return ProviderDown("The back end reported an error instead of a whole answer.", detail=_bounded(body))


def retry_after_s(value: str | None) -> float | None:
    """Seconds from now, of a Retry-After header: seconds or an HTTP date; None if it is neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), LONGEST_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.now(UTC)).total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)


def _is_too_long(status: int, body: bytes) -> bool:
    return status in (400, 413, 422) and any(mark in body for mark in _TOO_LONG)


def _bounded(body: bytes) -> str:
    return body[:MAX_DETAIL_BYTES].decode("utf-8", "replace")


def _by_status(status: int) -> LlmError:
    match status:
        case 401 | 403:
            return Unauthorized(f"The back end refused the credentials (HTTP {status}): check the lane's API key.")
        case 404:
            return ModelNotFound(
                "The back end does not serve this model (HTTP 404), or is another kind of server than its provider."
            )
        case 408:
            return Timeout("The back end gave up on the request (HTTP 408).")
        case 429:
            return RateLimited("The back end asks to slow down (HTTP 429).")
        case 501:
            return BadRequest(
                "The back end does not offer this (HTTP 501): it was started without it, or its model cannot do it."
            )
        case _ if 300 <= status < 400:
            return ProviderDown(
                f"The back end answered with a redirect (HTTP {status}), which is not followed: set the lane's "
                "endpoint to the final address.",
                retryable=False,
            )
        case _ if 400 <= status < 500:
            return BadRequest(f"The back end refused the request (HTTP {status}): see the detail for what it says.")
        case _:
            return ProviderDown(f"The back end failed (HTTP {status}).")
