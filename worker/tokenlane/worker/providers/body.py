"""The body of a chat request in OpenAI's dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from tokenlane.routing.errors import BadRequest
from tokenlane.routing.messages import ChatRequest

__all__ = ["as_json", "chat_body", "extra_of"]

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

_NOT_EXTRA = {"model", "messages", "stream", "stream_options"}


def chat_body(request: ChatRequest, model: str, names: Mapping[str, str]) -> bytes:
    """The request as JSON: what the agent set and no more, always streamed, always with usage.

    What an agent wrote is only ever a JSON value. `extra` goes in as it is, but may not name model, messages or
    streaming.

    Args:
        names: what the back end calls an option, where that differs from ours.

    Raises:
        BadRequest: `extra` holds what is not its own, or a number is not finite.
    """
    options = {names.get(name, name): getattr(request, name) for name in _OPTIONS}
    body: dict[str, JsonValue] = {
        **{name: value for name, value in options.items() if value is not None},
        **extra_of(request),
        "model": model,
        "messages": [message.model_dump(exclude_unset=True) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return as_json(body)


def extra_of(request: ChatRequest) -> dict[str, JsonValue]:
    """What goes into the body as it is.

    Raises:
        BadRequest: it names what is said elsewhere, or asks for more than one answer.
    """
    extra = request.extra or {}
    for name in sorted(_NOT_EXTRA & extra.keys()):
        raise BadRequest(
            f"`{name}` is not for `extra`: model and messages are said outside of it, and every answer is streamed."
        )
    if extra.get("n", 1) != 1:
        raise BadRequest("`n` in `extra` must be 1: send one request an answer.")
    return extra


def as_json(body: dict[str, JsonValue]) -> bytes:
    """A request's body.

    Raises:
        BadRequest: a number in it is not finite.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise BadRequest("The request holds a number that is not finite, which JSON cannot carry.") from None
