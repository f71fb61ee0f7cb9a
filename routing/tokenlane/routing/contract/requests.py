"""The requests that agents submit: chat, embed and model commands. No `repr` contains their content."""

from __future__ import annotations

from typing import Literal, Self, TypedDict

from pydantic import AliasChoices, Field, FiniteFloat, JsonValue, field_validator, model_validator

from .strict_input import JsonObject, StrictInput
from .wire import Name, Priority, RequestId, new_id

DEFAULT_TIME_TO_LIVE_MS = 600_000
COMMAND_TIME_TO_LIVE_MS = 6 * 3_600_000
EMBED_INPUTS = 2048
"""How many texts an embed request may have."""

ModelAction = Literal["list", "pull", "verify", "load", "unload"]


class Message(StrictInput):
    """One message of a conversation, in OpenAI's format.

    `content` is text, or a list of parts such as `{"type": "text", "text": ...}` and
    `{"type": "image_url", "image_url": {"url": ...}}`. `tool_calls` are passed to the model server unchanged, in
    OpenAI's nested format. `reasoning_content` and `reasoning` both hold the model's reasoning before its answer, since
    servers use either name; Ollama's `thinking` is read as `reasoning`. `refusal` is the model's text if it refuses to
    answer.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[JsonObject] | None = Field(default=None, repr=False)
    name: str | None = None
    tool_calls: list[JsonObject] | None = Field(default=None, repr=False)
    tool_call_id: str | None = None
    reasoning: str | None = Field(default=None, repr=False, validation_alias=AliasChoices("reasoning", "thinking"))
    reasoning_content: str | None = Field(default=None, repr=False)
    refusal: str | None = Field(default=None, repr=False)

    @property
    def thought(self) -> str | None:
        """The model's reasoning, from either field."""
        return self.reasoning_content or self.reasoning

    @field_validator("content")
    @classmethod
    def _wrap_bare_image_urls(cls, content: str | list[JsonObject] | None) -> str | list[JsonObject] | None:
        """Accept a bare URL as an image, as some libraries send it, and put it into OpenAI's object."""
        if not isinstance(content, list):
            return content
        return [
            {**part, "image_url": {"url": part["image_url"]}} if isinstance(part.get("image_url"), str) else part
            for part in content
        ]


class CommonOptions(TypedDict, total=False):
    """The options for both chats and embeddings. The model server's defaults apply to options that are not set."""

    model: str | None
    provider: str | None
    priority: Priority
    time_to_live_ms: int
    idempotency_key: str | None
    metadata: dict[str, JsonValue] | None


class ChatOptions(CommonOptions, total=False):
    """The options for a chat. The model server's defaults apply to options that are not set."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    max_tokens: int | None
    stop: list[str] | str | None
    seed: int | None
    logit_bias: dict[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    tools: list[dict[str, JsonValue]] | None
    tool_choice: str | dict[str, JsonValue] | None
    parallel_tool_calls: bool | None
    reasoning_effort: str | None
    continue_final: bool | None
    on_interrupt: Literal["error", "restart"]
    conversation: str | None
    extra: dict[str, JsonValue] | None


class Request(StrictInput):
    """The fields of every request. `time_to_live_ms` counts from the moment the pool accepts the request."""

    id: RequestId = Field(default_factory=new_id)
    role: Name
    priority: Priority = "normal"
    time_to_live_ms: int = Field(default=DEFAULT_TIME_TO_LIVE_MS, ge=1, le=86_400_000)

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.add("id")  # to_wire sends only fields that were set; a generated id must be sent too


class InferenceRequest(Request):
    """The fields that chat and embed requests share. `metadata` comes back with the answer; a model server sees
    of it only what the role's prompt plugin puts into a prompt."""

    model: str | None = Field(default=None, min_length=1, max_length=256)
    provider: str | None = Field(default=None, min_length=1, max_length=256)
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    metadata: JsonObject | None = Field(default=None, repr=False)


class ChatRequest(InferenceRequest):
    """A chat request as an agent submits it.

    `extra` is merged into the model server's request body unchanged. With `continue_final` the model continues the last
    message, and the answer contains only the continuation. `on_interrupt`: what happens to an answer that broke off and
    that no lane can continue: it ends as `Interrupted`, or begins anew. `conversation`: the id of the conversation to
    which the request belongs; routers and traces see it. A request has one answer: OpenAI's `n` is not supported.
    """

    messages: list[Message] = Field(min_length=1, repr=False)
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = None
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, allow_inf_nan=False)
    presence_penalty: float | None = Field(default=None, allow_inf_nan=False)
    repetition_penalty: float | None = Field(default=None, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] | str | None = Field(default=None, repr=False)
    seed: int | None = None
    logit_bias: dict[str, FiniteFloat] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    tools: list[JsonObject] | None = Field(default=None, repr=False)
    tool_choice: str | JsonObject | None = Field(default=None, repr=False)
    parallel_tool_calls: bool | None = None
    response_format: JsonObject | None = Field(default=None, repr=False)
    reasoning_effort: str | None = None
    continue_final: bool | None = None
    on_interrupt: Literal["error", "restart"] = "error"
    conversation: Name | None = None
    extra: JsonObject | None = Field(default=None, repr=False)

    @property
    def required_tool(self) -> str | None:
        """The name of the tool that `tool_choice` requires; None if it names no tool."""
        function = self.tool_choice.get("function") if isinstance(self.tool_choice, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        return name if isinstance(name, str) else None

    @property
    def must_call_tool(self) -> bool:
        """Whether `tool_choice` requires the answer to call a tool, whether a particular tool or any."""
        return self.required_tool is not None or self.tool_choice in ("required", "any")


class EmbedRequest(InferenceRequest):
    """A request to turn texts into vectors. `dimensions`: the length of each vector, for models that support a choice.
    `fallback`: "error" refuses vectors from the fallback model, whatever the pool's policy allows."""

    inputs: list[str] = Field(min_length=1, max_length=EMBED_INPUTS, repr=False)
    dimensions: int | None = Field(default=None, ge=1, le=65_536)
    fallback: Literal["error"] | None = None


class ModelCommand(Request):
    """A request to manage a lane's models. `model`: None only for `list`; `lane`: None for any lane."""

    role: Name = "models"
    action: ModelAction
    model: str | None = Field(default=None, min_length=1, max_length=2048)
    lane: Name | None = None
    time_to_live_ms: int = Field(default=COMMAND_TIME_TO_LIVE_MS, ge=1, le=86_400_000)

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if (self.model is None) != (self.action == "list"):
            raise ValueError("`list` takes no model, and every other action needs one")
        return self
