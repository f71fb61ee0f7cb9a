"""Leaves images out of messages, for models that do not accept images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from tokenlane.routing.contract.requests import Message

_INSTEAD: dict[str, JsonValue] = {"type": "text", "text": "[an image that this model cannot see]"}


def has_images(message: Message) -> bool:
    """Whether a part of the message is an image."""
    return isinstance(message.content, list) and any(map(_is_image, message.content))


def without_images(messages: Iterable[Message]) -> list[Message]:
    """The messages with a short text in place of each image."""
    return [_without(message) if has_images(message) else message for message in messages]


def _without(message: Message) -> Message:
    parts = message.content if isinstance(message.content, list) else ()
    content = [_INSTEAD if _is_image(part) else part for part in parts]
    return message.model_copy(update={"content": content})


def _is_image(part: Mapping[str, JsonValue]) -> bool:
    return part.get("type") == "image_url"
