"""Errors in the shape of OpenAI's APIs."""

from __future__ import annotations

from .failures import Failure

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def error_body(failure: Failure) -> dict[str, object]:
    """The body of a response that failed. `code` is tokenlane's; the SDKs choose their exception by the status."""
    kind = _TYPES.get(failure.status, "server_error" if failure.status >= 500 else "invalid_request_error")
    message = f"{failure.message}\n{failure.detail}".rstrip()
    error: dict[str, object] = {"message": message, "type": kind, "param": failure.param, "code": failure.code}
    if failure.request_id:
        error["request_id"] = failure.request_id
    return {"error": error}
