"""The answer to a chat: its deltas, its usage, and the whole answer. No `repr` contains output of a model."""

from __future__ import annotations

from typing import Generic, Literal

from pydantic import BaseModel, Field, JsonValue
from typing_extensions import TypeVar

from .requests import Message
from .wire import Value, Wire

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

Parsed = TypeVar("Parsed", bound=BaseModel, default=BaseModel)
"""The model an answer was asked for as `response_format`."""


class ToolCall(Value):
    """A tool call that the model requests. `arguments` is the JSON text as the model wrote it. `extra_content` must be
    sent back with the call; few servers use it, such as Gemini for its `thought_signature`."""

    id: str
    name: str
    arguments: str = Field(default="", repr=False)
    extra_content: dict[str, JsonValue] | None = Field(default=None, repr=False)

    def as_openai(self) -> dict[str, object]:
        """The call in OpenAI's nested form."""
        function = {"name": self.name, "arguments": self.arguments or "{}"}
        extra = {} if self.extra_content is None else {"extra_content": self.extra_content}
        return {"id": self.id, "type": "function", "function": function, **extra}


class ToolCallDelta(Value):
    """A piece of a tool call. Pieces with the same `index` belong together, and their `arguments` are concatenated.
    Back ends number pieces less clearly: `tool_calls` puts them in order."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = Field(default="", repr=False)
    extra_content: dict[str, JsonValue] | None = Field(default=None, repr=False)


class TopLogprob(Value):
    """A possible token at one place of the output. `logprob`: the natural logarithm of its probability, -9999 for 0.
    `bytes`: its UTF-8, which may be part of a character; None if the server does not send it."""

    token: str = Field(repr=False)
    logprob: float
    bytes: tuple[int, ...] | None = Field(default=None, repr=False)


class TokenLogprob(TopLogprob):
    """A token of the output with its probability, and the most likely tokens at its place if they were requested."""

    top_logprobs: tuple[TopLogprob, ...] = Field(default=(), repr=False)


class Usage(Value):
    """What a request cost. Times are milliseconds: `queue_ms` from acceptance to the start on a lane, `first_token_ms`
    and `total_ms` from that start."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float = 0
    first_token_ms: float = 0
    total_ms: float = 0
    attempts: int = 1


class TokenDelta(Wire):
    """One piece of streamed output.

    `position` counts the deltas of an answer from 0, across attempts. The provider sends `usage` with the last delta
    only. `logprobs`, if requested, belong to the tokens that the back end sent with this delta; a filter that looks for
    reasoning or a stop word may hold back their text until the next delta.
    """

    request_id: str = ""
    attempt: int = 0
    position: int = 0
    text: str = Field(default="", repr=False)
    reasoning: str = Field(default="", repr=False)
    tool_calls: tuple[ToolCallDelta, ...] = Field(default=(), repr=False)
    finish_reason: FinishReason | None = None
    model: str = ""
    lane: str = ""
    usage: Usage | None = None
    logprobs: tuple[TokenLogprob, ...] = Field(default=(), repr=False)


class Answer(Value, Generic[Parsed]):
    """A whole answer. `parsed`: its text as the `response_format` that was requested, if the answer calls no tool.
    `logprobs`: of all tokens in order, if requested. `metadata`: the request's, for the agent that sent it."""

    request_id: str
    text: str = Field(default="", repr=False)
    reasoning: str = Field(default="", repr=False)
    tool_calls: tuple[ToolCall, ...] = Field(default=(), repr=False)
    finish_reason: FinishReason | None = None
    usage: Usage = Usage()
    model: str = ""
    lane: str = ""
    logprobs: tuple[TokenLogprob, ...] = Field(default=(), repr=False)
    parsed: Parsed | None = Field(default=None, repr=False)
    metadata: dict[str, JsonValue] | None = Field(default=None, repr=False)

    @property
    def message(self) -> Message:
        """The answer as a turn of the conversation, to send with the next request: text, tool calls, and the reasoning,
        which many models need again together with the results of their calls."""
        turn: dict[str, object] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            turn |= {"content": self.text or None, "tool_calls": [call.as_openai() for call in self.tool_calls]}
        if self.reasoning:
            turn["reasoning_content"] = self.reasoning
        return Message.model_validate(turn)
