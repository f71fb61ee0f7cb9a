"""Estimates how many tokens a prompt has from its size in bytes. Agents and workers use the same estimate.

An image counts as a fixed number of tokens, since its tokens depend on its pixels and not on the length of its base64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from .requests import ChatRequest

BYTES_PER_TOKEN = 4
MEDIA_TOKENS = 1024
"""The estimate for an image or any other part that is not text. OpenAI's and Qwen's models use 800 to 1,300 tokens per
megapixel."""
_MESSAGE_TOKENS = 8
"""Tokens that a chat template usually adds to a message for its role and separators; some add four times as much."""


def estimated_tokens(request: ChatRequest) -> int:
    """Estimate how many tokens the prompt has: messages, tool calls and their results, and tool definitions."""
    extra = _MESSAGE_TOKENS * len(request.messages) + MEDIA_TOKENS * count_media(request)
    return text_bytes(request) // BYTES_PER_TOKEN + extra


def most_tokens(request: ChatRequest) -> int:
    """An upper limit for the prompt's tokens with any tokenizer: a token for each byte of text, the most that chat
    templates add, and the estimate for images."""
    extra = 4 * _MESSAGE_TOKENS * len(request.messages) + MEDIA_TOKENS * count_media(request)
    return text_bytes(request) + extra


def count_media(request: ChatRequest) -> int:
    """The number of parts that are not text: images, audio, files."""
    return sum(1 for part in parts_of(request) if not isinstance(part.get("text"), str))


def text_bytes(request: ChatRequest) -> int:
    """The size of the prompt's text in UTF-8 bytes."""
    return sum(map(utf8_size, _texts(request)))


def utf8_size(text: str) -> int:
    """The size of a text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def parts_of(request: ChatRequest) -> Iterator[Mapping[str, JsonValue]]:
    """All parts of the messages whose content is a list of parts."""
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
        yield from _strings_in(message.tool_calls)
    yield from _strings_in(request.tools)


def _strings_in(value: object) -> Iterator[str]:
    """All strings in a JSON value, including the keys of its objects."""
    match value:
        case str():
            yield value
        case dict():
            for name, inner in value.items():
                yield name
                yield from _strings_in(inner)
        case list():
            for inner in value:
                yield from _strings_in(inner)
