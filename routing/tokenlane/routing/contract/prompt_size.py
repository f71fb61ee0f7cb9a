"""How long a prompt is, told by its size: the same for an agent, which sends it, and a worker, which may refuse it.

A picture has as many tokens as its pixels make, however many characters its base64 has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from .requests import ChatRequest

BYTES_PER_TOKEN = 4
MEDIA_TOKENS = 1024
"""Of a picture, or anything else that is no text. OpenAI's and Qwen's models make 800 to 1,300 of one megapixel."""
_MESSAGE_TOKENS = 8
"""What a chat template adds to a message, its role and separators; at most four times as much."""


def estimated_tokens(request: ChatRequest) -> int:
    """About how many tokens its prompt has: messages, calls and results of tools, and the tools themselves."""
    beside = _MESSAGE_TOKENS * len(request.messages) + MEDIA_TOKENS * media(request)
    return text_bytes(request) // BYTES_PER_TOKEN + beside


def most_tokens(request: ChatRequest) -> int:
    """As many as its prompt can have however it is cut, but for its pictures: no token is less than a byte."""
    beside = 4 * _MESSAGE_TOKENS * len(request.messages) + MEDIA_TOKENS * media(request)
    return text_bytes(request) + beside


def media(request: ChatRequest) -> int:
    """How many of its parts are no text: pictures, sound, files."""
    return sum(1 for part in parts_of(request) if not isinstance(part.get("text"), str))


def text_bytes(request: ChatRequest) -> int:
    """The size of all its text, in UTF-8."""
    return sum(map(bytes_of, _texts(request)))


def bytes_of(text: str) -> int:
    """The size of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def parts_of(request: ChatRequest) -> Iterator[Mapping[str, JsonValue]]:
    """The parts of all messages that come in parts."""
    for message in request.messages:
        yield from message.content if isinstance(message.content, list) else ()


def _texts(request: ChatRequest) -> Iterator[str]:
    for part in parts_of(request):
        text = part.get("text")
        if isinstance(text, str):
            yield text
    for message in request.messages:
        if isinstance(message.content, str):
            yield message.content
        yield message.thought or ""
        yield from _within(message.tool_calls)
    yield from _within(request.tools)


def _within(value: object) -> Iterator[str]:
    """All text in a JSON value, the keys of its objects among it."""
    match value:
        case str():
            yield value
        case dict():
            for name, inner in value.items():
                yield name
                yield from _within(inner)
        case list():
            for inner in value:
                yield from _within(inner)
