"""Reads the body of a Messages request. What the pool cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tokenlane.producer.gateway.dialect import JsonBody
from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.http.json_body import validated
from tokenlane.producer.gateway.question import Question
from tokenlane.routing.contract.requests import ChatOptions

from .conversation import conversation_of
from .tools import tool_options

_HINTS = {
    "anthropic_beta",
    "anthropic_version",
    "betas",
    "billing_policy",
    "cache_control",
    "context_management",
    "diagnostics",
    "fallback_credit_token",
    "speed",
    "user_profile_id",
    "workspace_id",
}
"""Fields that do not change what is asked of the model."""
_CANNOT = {
    "compaction": "shorten the conversation yourself",
    "container": "the pool runs no code",
    "fallbacks": "the policy of the pool says which models follow a model that fails",
    "inference_geo": "the pool's model servers stand where their operator put them",
    "mcp_servers": "the pool calls no tools: call them yourself",
    "thread": "the pool stores no conversations: send all messages",
}
_EFFORTS = {"low": "low", "medium": "medium", "xhigh": "high", "max": "high"}
"""Reasoning efforts. In Anthropic's API, high is the same as none given; most model servers know none above high."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)


class _Thinking(_Part):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]


class _Format(_Part):
    type: Literal["json_schema"]
    json_schema: dict[str, JsonValue] = Field(alias="schema")


class _OutputConfig(_Part):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: _Format | None = None


class _Metadata(_Part):
    user_id: str | None = None


class _Body(_Part):
    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[JsonValue] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    system: JsonValue = None
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[JsonValue] | None = None
    tool_choice: JsonValue = None
    thinking: _Thinking | None = None
    metadata: _Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    output_config: _OutputConfig | None = None
    output_format: _Format | None = None


def read(body: JsonBody) -> Question:
    """Translate a body.

    Raises:
        Refused: it is not valid, or asks for what the pool cannot do.
    """
    asked = validated(_Body, body)
    _refuse_others(name for name, value in (asked.model_extra or {}).items() if value not in (None, [], {}))
    options: ChatOptions = {"max_tokens": asked.max_tokens, **tool_options(asked.tools or [], asked.tool_choice)}
    for name, value in {"temperature": asked.temperature, "top_p": asked.top_p, "top_k": asked.top_k}.items():
        if value is not None:
            options[name] = value  # type: ignore[literal-required] # the names are options
    if asked.stop_sequences:
        options["stop"] = asked.stop_sequences
    if (effort := _effort(asked)) is not None:
        options["reasoning_effort"] = effort
    if asked.service_tier == "standard_only":
        options["priority"] = "normal"
    messages = conversation_of(asked.system, asked.messages)
    if messages[-1]["role"] == "assistant":
        options["continue_final"] = True
    return Question(
        asked.model,
        messages,
        options,
        _response_format(asked),
        is_streamed=bool(asked.stream),
        user=asked.metadata.user_id if asked.metadata else None,
    )


def _refuse_others(names: Iterable[str]) -> None:
    for name in names:
        if name in _CANNOT:
            raise Refused(400, "unsupported_parameter", f"`{name}` is not supported: {_CANNOT[name]}.", param=name)
        if name not in _HINTS:
            message = f"There is no field {name[:60]!r} in a Messages request: leave it out."
            raise Refused(400, "unknown_parameter", message, param=name[:60])


def _effort(asked: _Body) -> str | None:
    """The reasoning effort. A thinking that is allowed asks for no effort: it is the model's own matter."""
    if asked.thinking is not None and asked.thinking.type == "disabled":
        return "none"
    wanted = asked.output_config.effort if asked.output_config else None
    return _EFFORTS.get(wanted or "high")


def _response_format(asked: _Body) -> dict[str, JsonValue] | None:
    wanted = (asked.output_config and asked.output_config.format) or asked.output_format
    if wanted is None:
        return None
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted.json_schema, "strict": True}}
