"""Why the gateway does not answer: the HTTP status, the code and the words for each error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tokenlane.routing.contract import errors
from tokenlane.routing.contract.errors import LlmError

_STATUSES: dict[type[LlmError], int] = {
    errors.BadRequest: 400,
    errors.SchemaMismatch: 502,
    errors.NoToolCall: 502,
    errors.Unauthorized: 502,
    errors.UnreadableAnswer: 502,
    errors.HookFailed: 500,
    errors.PluginFailed: 500,
    errors.Interrupted: 502,
    errors.ModelNotFound: 404,
    errors.RequestLost: 404,
    errors.DeadlineExceeded: 408,
    errors.Timeout: 504,
    errors.Duplicate: 409,
    errors.RequestCancelled: 409,
    errors.QueueFull: 429,
    errors.RateLimited: 429,
    errors.ProviderDown: 503,
    errors.PoolUnavailable: 503,
    errors.PoolKeyMismatch: 503,
}


class Refused(Exception):
    """The gateway refuses a request itself.

    Args:
        status: the HTTP status.
        code: a code of tokenlane's, such as `invalid_api_key`.
        message: what is wrong, and what to do.
        param: the field of the body that is wrong; None if no single field is.
    """

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.failure = Failure(status, code, message, param=param)


@dataclass(frozen=True)
class Failure:
    """Why a request failed, for all dialects.

    Args:
        status: the HTTP status, if the response has not begun.
        code: tokenlane's code of the error.
        message: what happened, where, and what to do; from tokenlane, with no word of the prompt or the answer.
        param: the field of the body that is wrong; None if no single field is.
        retry_after_s: after how many seconds to ask again; None if unknown.
        retryable: whether the same request may succeed later.
        request_id: the request's id in the pool; empty if it has none.
        detail: what the model server said, for the client alone; empty if it said nothing.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    retryable: bool = False
    request_id: str = ""
    detail: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a response that has this failure: when to try again, and whether SDKs should."""
        headers = {"x-should-retry": "true" if self.retryable else "false"}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
            headers["retry-after-ms"] = str(max(1, math.ceil(self.retry_after_s * 1000)))
        if self.request_id:
            headers |= request_id_headers(self.request_id)
        return headers


def request_id_headers(request_id: str) -> dict[str, str]:
    """The headers with a request's id: tokenlane's, OpenAI's and Anthropic's."""
    return dict.fromkeys(("x-tokenlane-request", "x-request-id", "request-id"), request_id)


def failure_of(error: LlmError) -> Failure:
    """Describe an error of the pool."""
    status = next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 500)
    return Failure(
        status,
        error.code,
        str(error),
        retry_after_s=error.retry_after_s,
        retryable=error.retryable or status in (429, 503),
        request_id=error.request_id,
        detail=error.detail,
    )


INTERNAL = Failure(500, "internal_error", "A bug in tokenlane: the log of the gateway says more.")
"""What a client is told of an unexpected error."""
