"""Every error a request can end in, as one tree.

The first paragraph of a class's docstring is its default message, the second is advice: docs/errors.md has both.

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
    """The request is not valid.

    Correct what the message names. Sending the same request again fails in the same way.
    """

    code = "bad_request"


class ContextTooLong(BadRequest):
    """The request does not fit the model's context: shorten the messages or lower max_tokens.

    The message names the limit and the size of the prompt. A model with a longer context, or a lane with a higher
    `max_input_tokens`, may take it.
    """

    code = "context_too_long"


class Unauthorized(LlmError):
    """The back end refused the credentials: check the lane's API key.

    Set the variable that `api_key_env` of the lane or its provider names, in the environment of the lane's worker.
    """

    code = "unauthorized"


class ModelNotFound(LlmError):
    """No lane serves that model.

    Check the model's name with `tokenlane models ls`, and the role's route with `tokenlane policy show`. A lane with
    `auto_pull` pulls what it lacks.
    """

    code = "model_not_found"


class DigestMismatch(LlmError):
    """The model's files do not have the pinned digest.

    Compare `digest` in the llm.toml of the lane's host with what `tokenlane models verify` prints. If the model was
    updated on purpose, pin the new digest.
    """

    code = "digest_mismatch"


class RequestCancelled(LlmError):
    """The request was cancelled.

    The agent cancelled it, another reader of the request did, or the client sent no beat for `orphan_ms`.
    """

    code = "cancelled"


class DeadlineExceeded(LlmError):
    """The request's time to live passed before it ended: give it more (time_to_live_ms), or ask for less.

    If it waited for all of that time, `tokenlane status` shows why: add a lane, or shorten the queue.
    """

    code = "deadline_exceeded"


class UnreadableAnswer(LlmError):
    """The answer has a form that cannot be read: is this a server that the lane's provider can talk to?

    The message names the field that is not as it should be. Check with `tokenlane probe` which server answers at the
    lane's endpoint. The next answer would have the same form, so it is not tried again.
    """

    code = "unreadable_answer"


class Interrupted(LlmError):
    """The answer broke off after some of it was delivered; `partial` holds that text.

    Show `partial`, or ask again. With `partial` as the last message and `continue_final=True`, a model continues it.
    """

    code = "interrupted"
    partial: str = ""


class RequestLost(LlmError):
    """The pool no longer knows this request: send it again.

    The pool forgets a request an hour after its end, or when the Redis server loses its data.
    """

    code = "request_lost"


class EntryDeleted(RequestLost):
    """Somebody else deleted the request's entry from its role's stream: send it again.

    Something other than tokenlane deletes keys of the pool: an eviction policy other than `noeviction`, or a person.
    """

    code = "entry_deleted"


class NoToolCall(LlmError):
    """The answer calls no tool, though `tool_choice` requires a call.

    Not every server enforces `tool_choice`. Ask again, or use a model or server that does.
    """

    code = "no_tool_call"


class SchemaMismatch(LlmError):
    """The answer does not fit the `response_format` that was asked for; `text` holds what it says.

    Ask again, raise `max_tokens` if the answer was cut off, or use a server that enforces schemas: docs/providers.md.
    """

    code = "schema_mismatch"
    text: str = ""


class Duplicate(LlmError):
    """A request with this idempotency key has already ended; `request_id` names that request.

    Attach to `request_id` within a minute of its end to read its answer, or ask with another key.
    """

    code = "duplicate"
    request_id: str = ""


class PoolUnavailable(LlmError):
    """No pool answers at this Redis URL.

    Check the URL, and that the Redis server runs. `tokenlane doctor` finds out more.
    """

    code = "pool_unavailable"


class PoolKeyMismatch(LlmError):
    """The pool is sealed with a key that this process does not have.

    Give this process the key: `tokenlane key show --reveal` on a host that has it, then `TOKENLANE_POOL_KEY` here.
    """

    code = "pool_key_mismatch"


class LaneConflict(LlmError):
    """The lane's name is in use for another endpoint: choose another name or stop its workers.

    A lane is one endpoint. Workers that name the same endpoint may share a lane.
    """

    code = "lane_conflict"


class Timeout(LlmError, TimeoutError):
    """The back end took too long.

    Raise the lane's `first_token_timeout_ms`, `token_timeout_ms` or `timeout_ms`, or check whether the server is stuck.
    """

    code = "timeout"
    retryable_by_default = True


class ProviderDown(LlmError):
    """The back end does not answer.

    Check the server at the lane's endpoint. `tokenlane status` shows the state of each lane.
    """

    code = "provider_down"
    retryable_by_default = True


class RateLimited(LlmError):
    """The back end asks to slow down.

    Send again after `retry_after_s`, or lower the lane's `capacity`.
    """

    code = "rate_limited"
    retryable_by_default = True


class QueueFull(LlmError):
    """The queue is full: send again after `retry_after_s`.

    The role or the agent has as many requests as the policy allows, or the Redis server has no memory left.
    """

    code = "queue_full"
    retryable_by_default = True


def _descendants(root: type[LlmError]) -> list[type[LlmError]]:
    return [root, *(found for child in root.__subclasses__() for found in _descendants(child))]


_CLASSES = {error.code: error for error in _descendants(LlmError)}
