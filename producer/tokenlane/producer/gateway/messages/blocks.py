"""Reads the blocks of Anthropic's messages as parts of a `Message`. What the pool cannot pass on is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Refused

Block: TypeAlias = Mapping[str, JsonValue]
Part: TypeAlias = dict[str, object]
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def blocks_of(content: JsonValue, where: str) -> Iterator[tuple[str, str, Block]]:
    """The blocks of a content, each with its place and its type. A text is a block of its own.

    Raises:
        Refused: the content is neither a text nor a list of blocks.
    """
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise Refused(400, "bad_request", f"`{where}` must be a text or a list of blocks.", param=where)
    for number, block in enumerate(content):
        place = f"{where}.{number}"
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(block, dict) or not isinstance(kind, str):
            raise Refused(400, "bad_request", f"`{place}` must be a block: an object with a `type`.", param=place)
        yield place, kind, block


def part_of(kind: str, block: Block, where: str) -> Part:
    """A block of text, an image or a plain document as a part of a message.

    Raises:
        Refused: the block is of another type, or not valid.
    """
    match kind:
        case "text":
            return text_part(string(block, "text", where))
        case "image":
            return {"type": "image_url", "image_url": {"url": _url_of(block.get("source"), f"{where}.source")}}
        case "document":
            return text_part(_document(block, where))
        case "search_result":
            head = [string(block, name, where) for name in ("title", "source")]
            return text_part("\n".join([*head, text_of(block.get("content"), f"{where}.content")]))
    raise unsupported(kind, where)


def text_of(content: JsonValue, where: str) -> str:
    """The text of a content that may have nothing else.

    Raises:
        Refused: the content has a block that is not text, or is not valid.
    """
    texts: list[str] = []
    for place, kind, block in blocks_of(content, where):
        if kind != "text":
            raise unsupported(kind, place)
        texts.append(string(block, "text", place))
    return "\n".join(texts)


def content_of(parts: Sequence[Part]) -> str | list[Part]:
    """The content of a message with these parts: one text if all are texts, since not every server takes a list."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(str(part["text"]) for part in parts)
    return list(parts)


def string(block: Block, name: str, where: str) -> str:
    """A field that must be a text.

    Raises:
        Refused: it is missing, or something else.
    """
    value = block.get(name)
    if not isinstance(value, str):
        raise Refused(400, "bad_request", f"`{where}.{name}` must be a text.", param=f"{where}.{name}")
    return value


def unsupported(kind: str, where: str) -> Refused:
    """The refusal of a block by its type."""
    message = f"`{where}`: blocks of the type {kind[:60]!r} are not supported here: leave the block out."
    return Refused(400, "unsupported_block", message, param=where)


def text_part(text: str) -> Part:
    """A part that is text."""
    return {"type": "text", "text": text}


def _url_of(source: JsonValue, where: str) -> str:
    match source:
        case {"type": "base64", "media_type": str(media_type), "data": str(data)} if media_type in _IMAGES:
            return f"data:{media_type};base64,{data}"
        case {"type": "url", "url": str(url)}:
            return url
        case {"type": "file"}:
            message = f"`{where}`: the pool stores no files: send the image itself, in base64."
            raise Refused(400, "unsupported_block", message, param=where)
    message = f"`{where}` must have the type base64, with `media_type` and `data`, or the type url."
    raise Refused(400, "bad_request", message, param=where)


def _document(block: Block, where: str) -> str:
    place = f"{where}.source"
    match block.get("source"):
        case {"type": "text", "data": str(data)}:
            text = data
        case {"type": "content", "content": content}:
            text = text_of(content, f"{place}.content")
        case _:
            message = f"`{place}`: only documents of plain text are supported: send the document's text."
            raise Refused(400, "unsupported_block", message, param=place)
    head = [string(block, name, where) for name in ("title", "context") if block.get(name) is not None]
    return "\n".join([*head, text])
