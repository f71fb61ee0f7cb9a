"""Every error that can end a request, as one class hierarchy.

The first paragraph of a class's docstring is the error's default message, the second is advice; docs/errors.md quotes
both.

`message` is tokenlane's text and safe to log: what happened, where, and what to do. `detail` is the model server's
text, which may quote a prompt: it reaches the agent over the request's channel, and `str` and `repr` leave it out.
"""

from __future__ import annotations

from inspect import cleandoc
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field


class ErrorReport(BaseModel):
    """An `LlmError` as JSON. `code` names the class. Readers ignore unknown fields."""

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

    `request_id`: the request's id, which the agent's side fills in; empty if the error concerns no single request.
    `server_condition`: `loading` or `down` if the error shows that the whole model server is loading a model or cannot
    be reached; None if the error concerns only this request.
    `http_status`: the status with which the model server refused the request; None if it sent no status of an error.
    Only the worker uses the last two; they are not sent to the agent.
    """

    code: ClassVar[str] = "error"
    retryable_by_default: ClassVar[bool] = False
    request_id: str = ""
    server_condition: Literal["loading", "down"] | None = None
    http_status: int | None = None

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
        """The message and, in brackets, the code, place and request that a bug report needs, as far as known."""
        places = {"provider": self.provider, "lane": self.lane, "model": self.model}
        known = [self.code, *(f"{name} {value!r}" for name, value in places.items() if value)]
        if self.request_id:
            known.append(f"request {self.request_id}")
        return f"{self.message} [{', '.join(known)}]"

    def at(
        self, *, provider: str | None = None, lane: str | None = None, model: str | None = None, request_id: str = ""
    ) -> Self:
        """Fill in the provider, lane, model and request that are not yet known. Returns the error itself."""
        self.provider = self.provider or provider
        self.lane = self.lane or lane
        self.model = self.model or model
        self.request_id = self.request_id or request_id
        return self

    def report(self) -> ErrorReport:
        """Return the report of this error that the worker sends to the agent."""
        return ErrorReport.model_validate(self, from_attributes=True)

    @staticmethod
    def from_report(report: ErrorReport) -> LlmError:
        """Return the error that a report describes. An unknown code becomes a plain `LlmError`."""
        return _CLASSES.get(report.code, LlmError)(**report.model_dump(exclude={"code"}))


class BadRequest(LlmError):
    """The request is not valid.

    Correct the field that the message names. Sending the same request again fails in the same way.
    """

    code = "bad_request"


class ContextTooLong(BadRequest):
    """The request does not fit the model's context: shorten the messages or lower max_tokens.

    The message names the limit and the size of the prompt. A model with a longer context, or a lane with a higher
    `max_input_tokens`, may accept it.
    """

    code = "context_too_long"


class ImagesNotAccepted(BadRequest):
    """The model does not accept images: send only text, or route this role to a model that does.

    `model` names it. A conversation (docs/conversations.md) leaves out the images of earlier turns by itself.
    """

    code = "images_not_accepted"


class Unauthorized(LlmError):
    """The model server refused the credentials: check the lane's API key.

    In the environment of the lane's worker, set the variable that the lane's or provider's `api_key_env` names.
    """

    code = "unauthorized"


class ModelNotFound(LlmError):
    """No lane serves that model.

    Check the model's name with `tokenlane models ls`, and the role's route with `tokenlane policy show`. A lane with
    `auto_pull` pulls missing models.
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

    The agent cancelled it, another client that had attached to it, or an operator with `tokenlane requests cancel` or
    `tokenlane roles purge`; or its client sent no beat for `orphan_ms`.
    """

    code = "cancelled"


class DeadlineExceeded(LlmError):
    """The request did not complete within its time to live: raise time_to_live_ms, or ask for a shorter answer.

    If the request never started, the message says so, with the last known reason: repair or add a lane, or shorten the
    queue.
    """

    code = "deadline_exceeded"


class UnreadableAnswer(LlmError):
    """The model server's answer cannot be parsed: check that the lane's provider supports this server.

    The message names the invalid field. `tokenlane probe` shows which server answers at the lane's endpoint. The
    request is not retried, since the next answer would have the same form.
    """

    code = "unreadable_answer"


class Interrupted(LlmError):
    """The answer broke off after part of it was delivered; `partial` holds that part.

    Show `partial`, or send the request again. To have a model continue the text, send `partial` as the last message,
    with `continue_final=True`.
    """

    code = "interrupted"
    partial: str = ""


class HookFailed(LlmError):
    """A hook failed; `partial` holds the part of the answer that was delivered.

    The message names the hook, and the type and place of its exception. Correct the hook, which is a function that the
    worker's `[advanced]` settings name or that this agent gave to its `Client` (docs/hooks.md).
    """

    code = "hook_failed"
    partial: str = ""


class PluginFailed(LlmError):
    """The role's prompt plugin failed, or the lane does not have it.

    The message says which plugin and why; an error text of the plugin is in `detail`. `tokenlane plugins check FILE`
    tries a plugin. `on_error = "skip"` in `[roles.NAME.prompt]` sends requests without a failing plugin's texts.
    """

    code = "plugin_failed"


class RequestLost(LlmError):
    """The pool no longer knows this request: send it again.

    The pool forgets a request an hour after its end, or when the Redis server loses its data.
    """

    code = "request_lost"


class EntryDeleted(RequestLost):
    """Something other than tokenlane deleted the request's entry from its role's stream: send the request again.

    Find out what deletes the pool's keys: an eviction policy other than `noeviction`, another program, or a person.
    """

    code = "entry_deleted"


class NoToolCall(LlmError):
    """The answer calls no tool, although `tool_choice` requires a call.

    Some servers do not enforce `tool_choice`. Send the request again, or use a server that does.
    """

    code = "no_tool_call"


class SchemaMismatch(LlmError):
    """The answer does not match the requested `response_format`; `text` holds the answer.

    Send the request again, raise `max_tokens` if the answer was cut off, or use a server that enforces schemas
    (docs/providers.md lists them).
    """

    code = "schema_mismatch"
    text: str = ""


class Duplicate(LlmError):
    """A request with this idempotency key has already ended; `request_id` names that request.

    To read its answer, attach to `request_id` within a minute of its end. To get a new answer, use another key.
    """

    code = "duplicate"


class PoolUnavailable(LlmError):
    """No pool answers at this Redis URL.

    Check the URL, and that the Redis server is running. `tokenlane doctor` diagnoses the connection.
    """

    code = "pool_unavailable"


class PoolKeyMismatch(LlmError):
    """The pool is sealed with a key that this process does not have.

    Run `tokenlane key show --reveal` on a host that has the key, and set `TOKENLANE_POOL_KEY` here to its output.
    """

    code = "pool_key_mismatch"


class LaneConflict(LlmError):
    """The lane's name is in use for another endpoint: choose another name, or stop the workers that use it.

    A lane is one endpoint. Only workers with the same endpoint may share a lane.
    """

    code = "lane_conflict"


class Timeout(LlmError, TimeoutError):
    """The model server took too long.

    Raise the lane's `first_token_timeout_ms`, `token_timeout_ms` or `timeout_ms`, or check whether the server is stuck.
    """

    code = "timeout"
    retryable_by_default = True


class ProviderDown(LlmError):
    """The model server does not answer.

    Check the server at the lane's endpoint. If the message says that no connected lane may serve the request, check the
    role's route and the provider's name instead. `tokenlane status` shows the state of each lane.
    """

    code = "provider_down"
    retryable_by_default = True


class RateLimited(LlmError):
    """The model server limits its rate of requests.

    A request that the server refuses for now waits, and is tried again until its deadline. This error ends a request if
    waiting is no use, for example because the account's quota is used up: the message says why.
    """

    code = "rate_limited"
    retryable_by_default = True


class QueueFull(LlmError):
    """The queue is full: send the request again after `retry_after_s`.

    The message says which limit is reached: the policy's `depth` for the role, its `in_flight` for the agent, or the
    memory of the Redis server. Busy lanes do not cause this error: a request waits for them, and `waiting` says why.
    `retry_after_s` is the mean time between the latest ends of the role's requests; 1 s while none has ended.
    """

    code = "queue_full"
    retryable_by_default = True


def advice_on(code: str) -> str:
    """What to do about an error with this code: the class's second paragraph; empty if the code is unknown."""
    error = _CLASSES.get(code, LlmError)
    if error is LlmError:
        return ""
    return " ".join(cleandoc(error.__doc__ or "").partition("\n\n")[2].split())


def _descendants(root: type[LlmError]) -> list[type[LlmError]]:
    return [root, *(error for child in root.__subclasses__() for error in _descendants(child))]


_CLASSES = {error.code: error for error in _descendants(LlmError)}
