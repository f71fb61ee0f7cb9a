"""Every error a request can end in, as one tree.

    LlmError
    ├── BadRequest          the request itself is wrong; sending it again changes nothing
    │   └── ContextTooLong  it does not fit the model's context
    ├── Unauthorized        the back end refused our credentials
    ├── ModelNotFound       no lane serves that model
    ├── DigestMismatch      the model's files are not the ones that were pinned
    ├── RequestCancelled    the agent, or the loss of the agent, cancelled it
    ├── DeadlineExceeded    its time to live passed
    ├── UnreadableAnswer    the back end's answer has a form we cannot read, as it will have the next time
    ├── Interrupted         the answer broke off after some of it was delivered (`partial`)
    ├── RequestLost         the pool no longer knows the request
    │   └── EntryDeleted    somebody else deleted it from its role's stream
    ├── NoToolCall          the answer is whole, and calls no tool, though it had to
    ├── SchemaMismatch      the answer is whole, and not in the form that was asked for (`text`)
    ├── Duplicate           its idempotency key was used by a request that has ended
    ├── PoolUnavailable     no pool answers at that Redis URL
    ├── PoolKeyMismatch     this pool's key is another one
    ├── LaneConflict        the lane's name is in use for another endpoint
    └── retryable
        ├── Timeout         the back end took too long (also a `TimeoutError`)
        ├── ProviderDown    the back end does not answer, or failed
        ├── RateLimited     the back end asks to slow down (`retry_after_s`)
        └── QueueFull       the pool asks to slow down (`retry_after_s`)

Two kinds of text are kept apart. `message` is ours and safe to log: what happened, where, what to do. `detail` is what
the back end said, which may quote a prompt; it travels to the agent on the request's channel, and is in neither `str`
nor `repr`.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field


class ErrorReport(BaseModel):
    """An `LlmError` as it crosses the wire. `code` names the class; readers ignore what they do not know."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    code: str
    message: str = ""
    retryable: bool = False
    retry_after_s: float | None = None
    provider: str | None = None
    lane: str | None = None
    model: str | None = None
    detail: str = Field(default="", repr=False)


class LlmError(Exception):
    """The request failed.

    `back_end`: what the failure says of the whole back end, and not of one request: it is `loading` a model, or `down`,
    since it could not be reached. None: nothing. It stays with the worker.
    """

    code: ClassVar[str] = "error"
    retryable_by_default: ClassVar[bool] = False
    back_end: Literal["loading", "down"] | None = None

    def __init__(
        self,
        message: str = "",
        *,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        provider: str | None = None,
        lane: str | None = None,
        model: str | None = None,
        detail: str = "",
    ) -> None:
        self.message = message or (type(self).__doc__ or "").split("\n")[0]
        self.retryable = self.retryable_by_default if retryable is None else retryable
        self.retry_after_s = retry_after_s
        self.provider = provider
        self.lane = lane
        self.model = model
        self.detail = detail
        super().__init__(self.message)

    def __str__(self) -> str:
        places = {"provider": self.provider, "lane": self.lane, "model": self.model}
        where = ", ".join(f"{name} {value!r}" for name, value in places.items() if value)
        return f"{self.message} ({where})" if where else self.message

    def at(self, *, provider: str | None = None, lane: str | None = None, model: str | None = None) -> Self:
        """Fill in where it happened, as far as that is not known yet, and return the error itself."""
        self.provider = self.provider or provider
        self.lane = self.lane or lane
        self.model = self.model or model
        return self

    def report(self) -> ErrorReport:
        """The error as it crosses the wire."""
        return ErrorReport.model_validate(self, from_attributes=True)

    @staticmethod
    def from_report(report: ErrorReport) -> LlmError:
        """The error a report describes; an unknown code becomes a plain `LlmError`."""
        return _CLASSES.get(report.code, LlmError)(**report.model_dump(exclude={"code"}))


class BadRequest(LlmError):
    """The request is not valid."""

    code = "bad_request"


class ContextTooLong(BadRequest):
    """The request does not fit the model's context: shorten the messages or lower max_tokens."""

    code = "context_too_long"


class Unauthorized(LlmError):
    """The back end refused the credentials: check the lane's API key."""

    code = "unauthorized"


class ModelNotFound(LlmError):
    """No lane serves that model."""

    code = "model_not_found"


class DigestMismatch(LlmError):
    """The model's files do not have the pinned digest."""

    code = "digest_mismatch"


class RequestCancelled(LlmError):
    """The request was cancelled."""

    code = "cancelled"


class DeadlineExceeded(LlmError):
    """The request's time to live passed before it ended: give it more (time_to_live_ms), or ask for less."""

    code = "deadline_exceeded"


class UnreadableAnswer(LlmError):
    """The back end's answer has a form that cannot be read: is it a server that the lane's provider can talk to?"""

    code = "unreadable_answer"


class Interrupted(LlmError):
    """The answer broke off after some of it was delivered; `partial` holds that text."""

    code = "interrupted"
    partial: str = ""


class RequestLost(LlmError):
    """The pool no longer knows this request: send it again."""

    code = "request_lost"


class EntryDeleted(RequestLost):
    """The request's entry in its role's stream was deleted by somebody else: send it again."""

    code = "entry_deleted"


class NoToolCall(LlmError):
    """The answer calls no tool, though `tool_choice` requires a call."""

    code = "no_tool_call"


class SchemaMismatch(LlmError):
    """The answer does not fit the `response_format` that was asked for; `text` holds what it says."""

    code = "schema_mismatch"
    text: str = ""


class Duplicate(LlmError):
    """A request with this idempotency key has already ended; `request_id` is its."""

    code = "duplicate"
    request_id: str = ""


class PoolUnavailable(LlmError):
    """No pool answers at this Redis URL."""

    code = "pool_unavailable"


class PoolKeyMismatch(LlmError):
    """The pool's key is another one."""

    code = "pool_key_mismatch"


class LaneConflict(LlmError):
    """The lane's name is in use for another endpoint: choose another name or stop its workers."""

    code = "lane_conflict"


class Timeout(LlmError, TimeoutError):
    """The back end took too long."""

    code = "timeout"
    retryable_by_default = True


class ProviderDown(LlmError):
    """The back end does not answer."""

    code = "provider_down"
    retryable_by_default = True


class RateLimited(LlmError):
    """The back end asks to slow down."""

    code = "rate_limited"
    retryable_by_default = True


class QueueFull(LlmError):
    """The queue is full: send again after `retry_after_s`."""

    code = "queue_full"
    retryable_by_default = True


def _descendants(root: type[LlmError]) -> list[type[LlmError]]:
    return [root, *(found for child in root.__subclasses__() for found in _descendants(child))]


_CLASSES = {error.code: error for error in _descendants(LlmError)}
