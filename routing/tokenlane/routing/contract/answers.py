"""The answer to a chat: its deltas, its usage, and the complete answer. No `repr` contains model output."""

from __future__ import annotations

from typing import Generic, Literal

from pydantic import BaseModel, Field, JsonValue
from typing_extensions import TypeVar

from .requests import Message
from .wire import Value, Wire

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

Parsed = TypeVar("Parsed", bound=BaseModel, default=BaseModel)
"""The pydantic model that the agent passed as `response_format`."""


class ToolCall(Value):
    """A tool call that the model requests. `arguments` is the JSON text as the model wrote it. Send `extra_content`
    back with the call: some servers require it, such as Gemini's for its `thought_signature`."""

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
    """A piece of a tool call. To assemble a call, concatenate the `arguments` of all pieces with the same `index`.
    The module `tool_calls` assigns the index, since model servers number pieces in different ways."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = Field(default="", repr=False)
    extra_content: dict[str, JsonValue] | None = Field(default=None, repr=False)


class TopLogprob(Value):
    """A possible token at one place in the output. `logprob`: the natural logarithm of its probability; -9999 for a
    probability of 0. `bytes`: its UTF-8 bytes, which may be part of a character; None if the server sends none."""

    token: str = Field(repr=False)
    logprob: float
    bytes: tuple[int, ...] | None = Field(default=None, repr=False)


class TokenLogprob(TopLogprob):
    """A token in the output with its probability. `top_logprobs`: the most likely tokens at its place, if requested."""

    top_logprobs: tuple[TopLogprob, ...] = Field(default=(), repr=False)


class Usage(Value):
    """The tokens and the time that a request took. `queue_ms` runs from acceptance to the start on a lane;
    `first_token_ms` and `total_ms` run from that start."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float = 0
    first_token_ms: float = 0
    total_ms: float = 0
    attempts: int = 1


class TokenDelta(Wire):
    """One piece of streamed output.

    `position` counts the deltas of an answer from 0, across attempts. Only the last delta has `usage`. `logprobs`, if
    requested, describe the tokens that the model server sent with this delta; a filter that looks for reasoning or a
    stop word may hold back the text of these tokens until the next delta. `restarted`: the answer begins anew with this
    delta, at position 0, and all text before it is void; only requests that allow a restart have such a delta.
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
    restarted: bool = False


class Answer(Value, Generic[Parsed]):
    """A complete answer. `parsed`: the text parsed as the requested `response_format`, unless the answer calls a tool.
    `logprobs`: all tokens in order, if requested. `metadata`: a copy of the request's metadata."""

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
        """The answer as a message to append to the conversation: text, tool calls and reasoning. Many models need their
        reasoning again together with the results of their tool calls."""
        turn: dict[str, object] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            turn |= {"content": self.text or None, "tool_calls": [call.as_openai() for call in self.tool_calls]}
        if self.reasoning:
            turn["reasoning_content"] = self.reasoning
        return Message.model_validate(turn)
