"""The answer to a chat: the pieces in which it comes, what it cost, and the whole.

Nothing that may hold what a model said is part of a `repr`.
"""

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
    """A call the model asks for. `arguments` is the JSON text as the model wrote it. `extra_content` is what the server
    wants to see again with the call, as Gemini its `thought_signature`; most send none."""

    id: str
    name: str
    arguments: str = Field(default="", repr=False)
    extra_content: dict[str, JsonValue] | None = Field(default=None, repr=False)


class ToolCallDelta(Value):
    """A piece of a tool call; pieces with the same `index` belong together, `arguments` are concatenated. Of other
    providers that need not be so clear: `routing.tool_calls` says which piece belongs where."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = Field(default="", repr=False)
    extra_content: dict[str, JsonValue] | None = Field(default=None, repr=False)


class TopLogprob(Value):
    """A token the model might have said at this place. `logprob`: the natural logarithm of its probability, -9999 where
    that is 0. `bytes`: its UTF-8, which need not be whole characters; None where the server does not say."""

    token: str = Field(repr=False)
    logprob: float
    bytes: tuple[int, ...] | None = Field(default=None, repr=False)


class TokenLogprob(TopLogprob):
    """A token the model said, how likely it was, and the likeliest at its place if they were asked for."""

    top_logprobs: tuple[TopLogprob, ...] = Field(default=(), repr=False)


class Usage(Value):
    """What a request cost. Times are milliseconds; `queue_ms` runs from acceptance to the start on a lane,
    `first_token_ms` and `total_ms` from the start on the lane."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float = 0
    first_token_ms: float = 0
    total_ms: float = 0
    attempts: int = 1


class TokenDelta(Wire):
    """One piece of streamed output.

    `position` counts the deltas of an answer from 0, across attempts. `usage` comes with the last piece only,
    from the provider. `logprobs`, if they were asked for, are those of the tokens the back end sent with this piece;
    text that is held back for a moment, to look for reasoning or a stop word in it, may come a piece later.
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
    """A whole answer. `parsed`: what it says, if it was asked for in the form of a model; None if it calls tools.
    `logprobs`: of its tokens in their order, if they were asked for. `metadata`: the request's, if this agent sent
    it."""

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
        """The answer as a turn of the conversation, to be sent again with what follows: what it said, the calls it asks
        for, and what it thought before, which many models want to see again with the results of their calls."""
        calls = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments or "{}"},
                **({} if call.extra_content is None else {"extra_content": call.extra_content}),
            }
            for call in self.tool_calls
        ]
        turn: dict[str, object] = {"role": "assistant", "content": self.text}
        if calls:
            turn |= {"content": self.text or None, "tool_calls": calls}
        if self.reasoning:
            turn["reasoning_content"] = self.reasoning
        return Message.model_validate(turn)
