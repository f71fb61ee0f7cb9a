"""Reads the body of a Chat Completions request. What the pool cannot do is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, JsonValue

from tokenlane.producer.gateway.access.caller import name_of
from tokenlane.producer.gateway.dialect import JsonBody
from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.http.json_body import validated
from tokenlane.producer.gateway.question import Question
from tokenlane.routing.contract.requests import ChatOptions
from tokenlane.routing.contract.wire import Priority

from .fields import extras
from .messages import Object, read_messages, read_tools

_Tier: TypeAlias = Literal["auto", "default", "flex", "scale", "priority", "fast"]
_PRIORITIES: dict[str, Priority] = {"flex": "low", "priority": "high", "fast": "high"}
TIERS: dict[Priority | None, str] = {"low": "flex", "high": "priority"}
"""The `service_tier` of an answer by the priority that its request had; `default` for others."""
_OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "stop",
    "seed",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "parallel_tool_calls",
    "reasoning_effort",
    "metadata",
)
"""The fields that the pool has options for, with the same meaning."""


@dataclass(frozen=True)
class ChatQuestion(Question):
    """A question in Chat Completions.

    Args:
        wants_usage: whether a last chunk has the usage.
    """

    wants_usage: bool = False


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool | None = None


class _Reasoning(BaseModel):
    """OpenRouter's form of `reasoning_effort`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    effort: str | None = None


class _Body(BaseModel):
    """The fields with a type. Their bounds, and the messages, are checked when the request is made."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    model: str | None = None
    messages: list[Object]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: list[str] | str | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Object] | None = None
    tool_choice: str | Object | None = None
    parallel_tool_calls: bool | None = None
    response_format: Object | None = None
    reasoning_effort: str | None = None
    reasoning: _Reasoning | None = None
    service_tier: _Tier | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    metadata: Object | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


def read(body: JsonBody) -> ChatQuestion:
    """Translate a body.

    Raises:
        Refused: it is not valid, or asks for what the pool cannot do.
    """
    asked = validated(_Body, body)
    more: dict[str, JsonValue] = asked.model_extra or {}
    return ChatQuestion(
        asked.model or "",
        read_messages(asked.messages),
        _options(asked, extras(more, _Body.model_fields)),
        None if asked.response_format == {"type": "text"} else asked.response_format,
        is_streamed=bool(asked.stream),
        user=asked.safety_identifier or asked.user,
        wants_usage=bool(asked.stream_options and asked.stream_options.include_usage),
    )


def _options(asked: _Body, extra: dict[str, JsonValue]) -> ChatOptions:
    given: dict[str, object] = {name: getattr(asked, name) for name in _OPTIONS}
    tools, choice = read_tools(asked.tools, asked.tool_choice)
    given |= {"tools": tools, "tool_choice": choice, "extra": extra or None}
    given["max_tokens"] = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    if asked.reasoning is not None and asked.reasoning_effort is None:
        given["reasoning_effort"] = asked.reasoning.effort
    if asked.service_tier is not None:
        given["priority"] = _PRIORITIES.get(asked.service_tier, "normal")
    if asked.prompt_cache_key:
        given["conversation"] = name_of(asked.prompt_cache_key)
    given["continue_final"] = _continues(asked) or None
    return cast("ChatOptions", {name: value for name, value in given.items() if value is not None})


def _continues(asked: _Body) -> bool:
    """Whether the model continues the last message: if it is the assistant's, as with llama.cpp, Ollama and OpenRouter.

    Raises:
        Refused: vLLM's fields for this contradict each other, or the last message.
    """
    is_last = bool(asked.messages) and asked.messages[-1].get("role") == "assistant"
    for name, value, expected in (
        ("continue_final_message", asked.continue_final_message, is_last),
        ("add_generation_prompt", asked.add_generation_prompt, not is_last),
    ):
        if value not in (None, expected):
            what = f"`{name}` contradicts the last message: the assistant's is continued, any other is answered."
            raise Refused(400, "bad_request", what, param=name)
    return is_last
