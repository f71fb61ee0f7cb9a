"""The body of a chat request in OpenAI's dialect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from pydantic import JsonValue

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.messages import ChatRequest, Message

__all__ = [
    "ELSEWHERE",
    "as_json",
    "chat_body",
    "continued",
    "cut_stops_of",
    "extra_of",
    "image_urls",
    "messages_of",
    "options_of",
    "refuse_ignored",
    "retold",
    "stops_of",
    "thought_and_refusal",
    "with_text",
]

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

ELSEWHERE = "leave it out, or route this role to another provider"
"""What to do in place of an option that a server does not have."""

_NOT_EXTRA = {"model", "messages", "stream", "stream_options"}


def chat_body(
    request: ChatRequest, model: str, names: Mapping[str, str], more: Mapping[str, JsonValue] | None = None
) -> bytes:
    """The request as JSON: what the agent set and no more, always streamed, always with usage.

    What an agent wrote is only ever a JSON value. `extra` goes in as it is, but may not name model, messages or
    streaming.

    Args:
        names: what the back end calls an option, where that differs from ours.
        more: what this back end wants said besides.

    Raises:
        BadRequest: `extra` holds what is not its own, or a number is not finite.
    """
    body: dict[str, JsonValue] = {
        **options_of(request, names),
        **extra_of(request),
        "model": model,
        "messages": messages_of(request),
        "stream": True,
        "stream_options": {"include_usage": True},
        **(more or {}),
    }
    return as_json(body)


def options_of(request: ChatRequest, names: Mapping[str, str]) -> dict[str, JsonValue]:
    """The options the agent set. No tools are none: some back ends refuse an empty list."""
    options = {names.get(name, name): getattr(request, name) for name in _OPTIONS}
    return {name: value for name, value in options.items() if value is not None and (name, value) != ("tools", [])}


def refuse_ignored(request: ChatRequest, ignored: Mapping[str, str], provider: str) -> None:
    """Refuse what the server would take and not do.

    Args:
        ignored: the options, and what to do in place of each. `parallel_tool_calls` is one only where it is off.

    Raises:
        BadRequest: the request has one of them.
    """
    for name, instead in ignored.items():
        value = getattr(request, name)
        if value not in (None, {}) and not (name == "parallel_tool_calls" and value):
            raise BadRequest(f"{provider} does not support `{name}`: {instead}.")


def messages_of(request: ChatRequest) -> list[JsonValue]:
    """The messages in OpenAI's shape."""
    turns = [message.model_dump(exclude_unset=True) for message in request.messages]
    # Null is what was not said, but for a content: beside tool calls some servers want it to be there.
    return [{name: value for name, value in turn.items() if value is not None or name == "content"} for turn in turns]


def retold(request: ChatRequest, retell: Callable[[Message], Message]) -> ChatRequest:
    """The request with each turn as `retell` puts it."""
    turns = [retell(message) for message in request.messages]
    same = all(turn is message for turn, message in zip(turns, request.messages, strict=True))
    return request if same else request.model_copy(update={"messages": turns})


def thought_and_refusal(message: Message, thoughts: Literal["reasoning", "reasoning_content"]) -> Message:
    """The turn as servers of open models know it: its reasoning under that name, and a refusal as its text."""
    if not (message.thought or message.refusal):
        return message
    turn = message.model_dump(exclude_unset=True, exclude={"reasoning", "reasoning_content", "refusal"})
    if message.thought:
        turn[thoughts] = message.thought
    if message.refusal:
        turn["content"] = with_text(message.content, message.refusal)
    return Message.model_validate(turn)


def with_text(
    content: str | list[dict[str, JsonValue]] | None, after: str = "", *, before: str = ""
) -> str | list[dict[str, JsonValue]]:
    """The content of a turn with text around it."""
    if not isinstance(content, list):
        return f"{before}{content or ''}{after}"
    parts: list[dict[str, JsonValue]] = [{"type": "text", "text": before}, *content, {"type": "text", "text": after}]
    return [part for part in parts if part != {"type": "text", "text": ""}]


def image_urls(request: ChatRequest) -> Iterator[str]:
    """Where the request's images are: data URLs and others."""
    for message in request.messages:
        for part in message.content if isinstance(message.content, list) else ():
            match part:
                case {"type": "image_url", "image_url": {"url": str(url)}}:
                    yield url


def continued(request: ChatRequest, begun: str) -> tuple[ChatRequest, str]:
    """The request with the begun answer as its last message, without the white space at its end; and all of the text
    that is to be continued, which an agent may have begun itself.

    Raises:
        BadRequest: an answer in a form that was asked for cannot be continued.
    """
    if request.response_format is not None and request.response_format.get("type") != "text":
        raise BadRequest("An answer with a `response_format` cannot be continued: send the request again.")
    *others, last = request.messages
    if last.role != "assistant" or last.tool_calls or isinstance(last.content, list):
        others, last = [*request.messages], Message(role="assistant", content="")
    text = f"{last.content or ''}{begun}"
    messages = [*others, Message(role="assistant", content=text.rstrip())] if text.strip() else others
    return request.model_copy(update={"messages": messages}), text


def stops_of(request: ChatRequest) -> list[str]:
    """The request's stop words."""
    return [request.stop] if isinstance(request.stop, str) else request.stop or []


def cut_stops_of(request: ChatRequest) -> list[str]:
    """The stop words that the answer is to end before: none if vLLM is told to leave the one that ended it in the text,
    or to look for none before so many tokens."""
    extra = request.extra or {}
    return [] if extra.get("include_stop_str_in_output") or extra.get("min_tokens") else stops_of(request)


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
