"""Errors in the shape of Anthropic's API."""

from __future__ import annotations

from collections.abc import Mapping

from .failures import Failure

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_TOO_LONG = "prompt is too long"
"""Words of Anthropic's by which coding agents recognise that they must shorten the conversation."""


def speaks_anthropic(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a client of Anthropic's API, on a path that OpenAI's API has too."""
    return "anthropic-version" in headers


def error_body(failure: Failure) -> dict[str, object]:
    """The body of a response that failed, and the data of an `error` event.

    `details.error_code` is tokenlane's code; the SDKs choose their exception by the status.
    """
    kind = _TYPES.get(failure.status, "api_error" if failure.status >= 500 else "invalid_request_error")
    message = f"{failure.message}\n{failure.detail}".rstrip()
    if failure.code == "context_too_long":
        message = f"{_TOO_LONG}: {message}"
    error = {"type": kind, "message": message, "details": {"error_code": failure.code}}
    return {"type": "error", "error": error, "request_id": failure.request_id or None}
