"""Reads the body of a Responses request. What the pool cannot do is refused by name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tokenlane.config.settings.values import is_name
from tokenlane.producer.gateway.dialect import JsonBody
from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.http.json_body import validated
from tokenlane.producer.gateway.question import Question
from tokenlane.routing.contract.requests import ChatOptions
from tokenlane.routing.contract.wire import Priority

from .input_items import to_messages
from .tools import as_shown, to_chat_choice, to_chat_tools

_HINTS = {
    "client_metadata",
    "image",
    "max_tool_calls",
    "prompt_cache_options",
    "prompt_cache_retention",
    "stream_options",
    "truncation",
}
"""Fields that are accepted and change nothing: advice for OpenAI's caches, and limits of tools that it hosts."""
_CANNOT = {
    "conversation": "nothing is stored here: send the conversation as `input`, or use `previous_response_id`",
    "prompt": "prompts are not stored here: send `instructions` and `input`",
    "context_management": "the gateway compacts no conversations",
    "moderation": "the pool has no moderation",
    "access_programs": "the pool has no access programs",
}
_PRIORITIES: Mapping[str, Priority] = {"flex": "low", "default": "normal"}
"""The priority of a `service_tier`; of all tiers above these it is high. `auto` leaves the priority to the caller."""
_WINDOW = re.compile(r"([0-9]{1,2})h")
_HOUR_MS = 3_600_000
_LONGEST_H = 24


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)


class _Reasoning(_Part):
    effort: str | None = None
    summary: str | None = None


class _Text(_Part):
    format: dict[str, JsonValue] | None = None
    verbosity: str | None = None


class _BackgroundOptions(_Part):
    completion_window: str | None = None
    continuation_id: str | None = None


class _Body(_Part):
    model: str = ""
    input: JsonValue = Field(default=None, repr=False)
    instructions: str | None = Field(default=None, repr=False)
    stream: bool | None = None
    background: bool | None = None
    background_options: _BackgroundOptions | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, JsonValue]] | None = None
    tool_choice: JsonValue = None
    parallel_tool_calls: bool | None = None
    text: _Text | None = None
    reasoning: _Reasoning | None = None
    include: list[str] | None = None
    metadata: dict[str, str] | None = Field(default=None, repr=False)
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None


@dataclass(frozen=True)
class ResponsesQuestion(Question):
    """A question of this dialect.

    Args:
        shown: the fields of the request that its response repeats.
        is_background: whether the answer goes on without its client.
        is_remembered: whether a later request may name this one as its previous response.
        as_summary: whether the client wants to see reasoning as a summary.
    """

    shown: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    is_background: bool = False
    is_remembered: bool = False
    as_summary: bool = False


def read(
    body: JsonBody, previous: Callable[[str], Sequence[Mapping[str, object]]], *, may_be_background: bool
) -> ResponsesQuestion:
    """Translate a body.

    Args:
        previous: returns the conversation of an earlier response. Raises `Refused` if it is not known.

    Raises:
        Refused: it is not valid, or asks for what the pool cannot do.
    """
    asked = validated(_Body, body)
    _refuse(asked, may_be_background=may_be_background)
    earlier = previous(asked.previous_response_id) if asked.previous_response_id is not None else ()
    new = to_messages(asked.input) if asked.input is not None or not earlier else []
    if not earlier and not new:
        raise Refused(400, "bad_request", "`input` is empty: send a text or items.", param="input")
    system = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    return ResponsesQuestion(
        asked.model,
        [*system, *earlier, *new],
        _options(asked),
        _response_format(asked.text.format if asked.text else None),
        is_streamed=bool(asked.stream),
        user=asked.safety_identifier or asked.user,
        shown=_shown(asked),
        is_background=bool(asked.background),
        is_remembered=asked.store is not False,
        as_summary=asked.reasoning is not None and asked.reasoning.summary is not None,
    )


def _refuse(asked: _Body, *, may_be_background: bool) -> None:
    for name, value in (asked.model_extra or {}).items():
        if name in _CANNOT and value is not None:
            raise Refused(400, "unsupported_parameter", f"`{name}` is not supported: {_CANNOT[name]}.", param=name)
        if name not in _CANNOT and name not in _HINTS:
            message = f"`{name[:60]}` is not a field that this gateway knows: leave it out."
            raise Refused(400, "unknown_parameter", message, param=name[:60])
    if asked.top_logprobs or "message.output_text.logprobs" in (asked.include or ()):
        message = "Responses have no log probabilities here: ask for them with Chat Completions."
        raise Refused(400, "unsupported_parameter", message, param="top_logprobs" if asked.top_logprobs else "include")
    if asked.background and not may_be_background:
        message = "This gateway runs no responses in the background."
        raise Refused(400, "unsupported_parameter", message, param="background")
    if asked.background_options is not None and not asked.background:
        message = "`background_options` needs `background: true`."
        raise Refused(400, "bad_request", message, param="background_options")


def _options(asked: _Body) -> ChatOptions:
    given: ChatOptions = {
        "max_tokens": asked.max_output_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": asked.top_k,
        "min_p": asked.min_p,
        "presence_penalty": asked.presence_penalty,
        "frequency_penalty": asked.frequency_penalty,
        "seed": asked.seed,
        "stop": asked.stop,
        "parallel_tool_calls": asked.parallel_tool_calls if asked.tools else None,
        "reasoning_effort": asked.reasoning.effort if asked.reasoning else None,
        "conversation": _conversation(asked),
    }
    tools = to_chat_tools(asked.tools or ())
    choice, tools = to_chat_choice(asked.tool_choice, tools)
    if tools:
        given["tools"], given["tool_choice"] = tools, choice
    if asked.service_tier not in (None, "auto"):
        given["priority"] = _PRIORITIES.get(str(asked.service_tier), "high")
    window = asked.background_options.completion_window if asked.background_options else None
    if window is not None and window != "soonest":
        given["priority"], given["time_to_live_ms"] = "low", _window_ms(window)
    return given


def _window_ms(window: str) -> int:
    match = _WINDOW.fullmatch(window)
    if match is None or not 1 <= int(match[1]) <= _LONGEST_H:
        raise Refused(
            400,
            "bad_request",
            f"`background_options.completion_window` must be soonest, or hours from 1h to {_LONGEST_H}h.",
            param="background_options.completion_window",
        )
    return int(match[1]) * _HOUR_MS


def _conversation(asked: _Body) -> str | None:
    """The conversation to which the request belongs, so that it comes to the lane that has it in its cache."""
    further = asked.background_options.continuation_id if asked.background_options else None
    key = asked.prompt_cache_key or further
    if not key:
        return None
    return key if is_name(key) else hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _response_format(form: Mapping[str, JsonValue] | None) -> dict[str, JsonValue] | None:
    kind: Literal["text"] | JsonValue = "text" if form is None else form.get("type")
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind == "json_schema" and isinstance(form.get("schema"), dict):
        names = ("name", "description", "schema", "strict")
        return {
            "type": "json_schema",
            "json_schema": {name: form[name] for name in names if form.get(name) is not None},
        }
    message = "`text.format` must be of type text, json_object, or json_schema with a `schema`."
    raise Refused(400, "bad_request", message, param="text.format")


def _shown(asked: _Body) -> dict[str, JsonValue]:
    """The fields of a response that repeat its request."""
    reasoning = asked.reasoning or _Reasoning()
    form = asked.text.format if asked.text else None
    return {
        "background": bool(asked.background),
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": dict[str, JsonValue](asked.metadata or {}),
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "safety_identifier": asked.safety_identifier,
        "service_tier": asked.service_tier or "default",
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "presence_penalty": asked.presence_penalty or 0.0,
        "frequency_penalty": asked.frequency_penalty or 0.0,
        "text": {"format": form or {"type": "text"}},
        "tool_choice": "auto" if asked.tool_choice is None else asked.tool_choice,
        "tools": as_shown(asked.tools or ()),
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "truncation": (asked.model_extra or {}).get("truncation") or "disabled",
    }
