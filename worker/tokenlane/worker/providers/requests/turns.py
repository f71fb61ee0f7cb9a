"""Rewrites the turns of a conversation for a model server, and appends a partial answer that the model should
continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import JsonValue

from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest, Message

PREFILL_PROBE = ChatRequest(
    role="probe", messages=[Message(role="user", content="a"), Message(role="assistant", content="Once upon")]
)
"""A request with a partial answer, to test whether a model's template leaves that answer open."""


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
"""An image of one pixel, to test whether a model accepts images."""


def map_turns(request: ChatRequest, adapt: Callable[[Message], Message]) -> ChatRequest:
    """The request with `adapt` applied to each of its turns."""
    turns = [adapt(message) for message in request.messages]
    same = all(turn is message for turn, message in zip(turns, request.messages, strict=True))
    return request if same else request.model_copy(update={"messages": turns})


def add_text(
    content: str | list[dict[str, JsonValue]] | None, after: str = "", *, before: str = ""
) -> str | list[dict[str, JsonValue]]:
    """The content of a turn, which is text or a list of parts, with text added before and after it."""
    if not isinstance(content, list):
        return f"{before}{content or ''}{after}"
    parts: list[dict[str, JsonValue]] = [{"type": "text", "text": before}, *content, {"type": "text", "text": after}]
    return [part for part in parts if part != {"type": "text", "text": ""}]


def image_urls(request: ChatRequest) -> Iterator[str]:
    """The URLs of the request's images, including data URLs."""
    for message in request.messages:
        for part in message.content if isinstance(message.content, list) else ():
            match part:
                case {"type": "image_url", "image_url": {"url": str(url)}}:
                    yield url


def continue_answer(request: ChatRequest, begun: str) -> tuple[ChatRequest, str]:
    """Make a request that has the model continue a partial answer.

    Returns the request, whose last message is the partial answer without its trailing white space, and the complete
    text of that answer. If the conversation already ends with a turn of the assistant, that turn is the beginning of
    it.

    Raises:
        BadRequest: the request has a `response_format`; servers cannot continue such an answer.
    """
    if request.response_format is not None and request.response_format.get("type") != "text":
        raise BadRequest(
            "An answer with a `response_format` cannot be continued: send the request without a partial answer."
        )
    *others, last = request.messages
    if last.role != "assistant" or last.tool_calls or isinstance(last.content, list):
        others, last = [*request.messages], Message(role="assistant", content="")
    text = f"{last.content or ''}{begun}"
    messages = [*others, Message(role="assistant", content=text.rstrip())] if text.strip() else others
    return request.model_copy(update={"messages": messages}), text
