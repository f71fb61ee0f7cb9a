"""The turns of a conversation in the words of a server that knows fewer, and the begun answer among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import JsonValue

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest, Message

BEGUN = ChatRequest(
    role="probe", messages=[Message(role="user", content="a"), Message(role="assistant", content="Once upon")]
)
"""A begun answer, to try whether a model's template leaves it open."""


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
"""An image, to try whether a model takes any."""


def with_turns(request: ChatRequest, adapt: Callable[[Message], Message]) -> ChatRequest:
    """The request with each turn as `adapt` returns it."""
    turns = [adapt(message) for message in request.messages]
    same = all(turn is message for turn, message in zip(turns, request.messages, strict=True))
    return request if same else request.model_copy(update={"messages": turns})


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
