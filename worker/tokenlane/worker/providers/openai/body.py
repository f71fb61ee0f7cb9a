"""Builds the body of a chat request in OpenAI's dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import JsonValue

from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.providers.requests.options import as_json, extra_of
from tokenlane.worker.providers.requests.turns import add_text

_OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "max_tokens",
    "stop",
    "seed",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
)


def chat_body(
    request: ChatRequest, model: str, names: Mapping[str, str], more: Mapping[str, JsonValue] | None = None
) -> bytes:
    """The request as JSON, with only the options that the agent set. Answers are always streamed, with usage.

    `extra` is added unchanged, but must not set model, messages or streaming.

    Args:
        names: the model server's names for options, where they differ from ours.
        more: additional fields for this model server.

    Raises:
        BadRequest: `extra` sets a field that it must not set, or a number is not finite.
    """
    messages: dict[str, JsonValue] = {"messages": messages_of(request)}
    return streamed_body(request, model, options_of(request, names), {**messages, **(more or {})})


def streamed_body(
    request: ChatRequest, model: str, options: Mapping[str, JsonValue], content: Mapping[str, JsonValue]
) -> bytes:
    """The body of a request for a streamed answer with usage; see `chat_body`."""
    streaming: dict[str, JsonValue] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    return as_json({**options, **extra_of(request), **streaming, **content})


def options_of(request: ChatRequest, names: Mapping[str, str]) -> dict[str, JsonValue]:
    """The options that the agent set. An empty list of tools is left out, since some model servers refuse it."""
    options = {names.get(name, name): getattr(request, name) for name in _OPTIONS}
    return {name: value for name, value in options.items() if value is not None and (name, value) != ("tools", [])}


def prompt_of(request: ChatRequest) -> dict[str, JsonValue]:
    """The part of the body that the model reads: messages and tools."""
    messages = messages_of(request)
    return {"messages": messages, "tools": [*request.tools]} if request.tools else {"messages": messages}


def messages_of(request: ChatRequest) -> list[JsonValue]:
    """The messages in OpenAI's format, without fields that are null."""
    turns = [message.model_dump(exclude_unset=True) for message in request.messages]
    # `content` is kept even if it is null, since some servers require it in turns with tool calls.
    return [{name: value for name, value in turn.items() if value is not None or name == "content"} for turn in turns]


def thought_and_refusal(message: Message, thoughts: Literal["reasoning", "reasoning_content"]) -> Message:
    """The turn in the format that servers of open models read: its reasoning in the field named by `thoughts`, and a
    refusal as text."""
    if not (message.thought or message.refusal):
        return message
    turn = message.model_dump(exclude_unset=True, exclude={"reasoning", "reasoning_content", "refusal"})
    if message.thought:
        turn[thoughts] = message.thought
    if message.refusal:
        turn["content"] = add_text(message.content, message.refusal)
    return Message.model_validate(turn)
