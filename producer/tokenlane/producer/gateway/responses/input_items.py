"""Translates the items of an `input` to messages. Items that the pool cannot give to a model are refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Refused

from .tools import joined

Message: TypeAlias = dict[str, JsonValue]

_ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def to_messages(given: JsonValue) -> list[Message]:
    """The messages of an `input`: a text, or a list of items.

    Raises:
        Refused: an item is not valid, or of a type that the pool cannot give to a model.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise Refused(400, "bad_request", "`input` must be a text or a list of items.", param="input")
    messages: list[Message] = []
    thought = ""
    for place, item in enumerate(given):
        where = f"input[{place}]"
        fields = _object(item, where)
        match fields.get("type", "message"):
            case "reasoning":
                thought += _thought(fields, where)
                continue
            case "message":
                messages.append(_message(fields, where))
            case "function_call":
                _add_call(messages, fields, where, joins=not thought)
            case "function_call_output":
                messages.append(_call_output(fields, where))
            case kind:
                raise Refused(400, "unsupported_item", _why_not(kind, where), param=where)
        if thought and messages[-1]["role"] == "assistant":
            messages[-1]["reasoning_content"] = thought
        thought = ""
    return messages


def answer_message(text: str, reasoning: str, calls: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """An answer as the message that the next question has before it."""
    message: dict[str, object] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = list(calls)
    if reasoning:
        message["reasoning_content"] = reasoning
    return message


def _why_not(kind: object, where: str) -> str:
    if kind == "item_reference":
        return f"`{where}` refers to a stored item, and nothing is stored here: send the item itself."
    return f"`{where}` has the type {str(kind)[:60]!r}, which no model of the pool can read: leave the item out."


def _object(value: JsonValue, where: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise Refused(400, "bad_request", f"`{where}` must be a JSON object.", param=where)
    return value


def _text(fields: Mapping[str, JsonValue], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise Refused(400, "bad_request", f"`{where}.{name}` must be a text.", param=f"{where}.{name}")
    return value


def _message(fields: Mapping[str, JsonValue], where: str) -> Message:
    role = fields.get("role")
    if role not in _ROLES:
        raise Refused(400, "bad_request", f"`{where}.role` must be one of {', '.join(_ROLES)}.", param=f"{where}.role")
    return {"role": role, "content": _content(fields.get("content"), f"{where}.content")}


def _content(content: JsonValue, where: str) -> JsonValue:
    """The content of a message: a text if all its parts are texts, else a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(400, "bad_request", f"`{where}` must be a text or a list of parts.", param=where)
    parts = [_part(part, f"{where}[{place}]") for place, part in enumerate(content)]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    return "".join(map(str, texts)) if len(texts) == len(parts) else list[JsonValue](parts)


def _part(part: JsonValue, where: str) -> dict[str, JsonValue]:
    fields = _object(part, where)
    kind = fields.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": _text(fields, "text", where)}
    if kind == "refusal":
        return {"type": "text", "text": _text(fields, "refusal", where)}
    if kind == "input_image" and fields.get("image_url") is not None:
        image: dict[str, JsonValue] = {"url": _text(fields, "image_url", where)}
        if isinstance(detail := fields.get("detail"), str):
            image["detail"] = detail
        return {"type": "image_url", "image_url": image}
    raise Refused(
        400,
        "unsupported_content",
        f"`{where}` has the type {str(kind)[:60]!r}: send texts, and images as `image_url`; there are no stored files.",
        param=where,
    )


def _thought(fields: Mapping[str, JsonValue], where: str) -> str:
    """The text of a reasoning item: the reasoning itself, or its summary. Encrypted reasoning is another server's."""
    for name in ("content", "summary"):
        parts = fields.get(name)
        if isinstance(parts, list) and parts:
            each = (_object(part, f"{where}.{name}") for part in parts)
            return "\n".join(_text(part, "text", f"{where}.{name}") for part in each)
    return ""


def _add_call(messages: list[Message], fields: Mapping[str, JsonValue], where: str, *, joins: bool) -> None:
    """Add a function call to the assistant's message before it, or to a new one."""
    function: dict[str, JsonValue] = {
        "name": joined(_text(fields, "name", where), fields.get("namespace")),
        "arguments": _text(fields, "arguments", where) or "{}",
    }
    call: JsonValue = {"id": _text(fields, "call_id", where), "type": "function", "function": function}
    if not (joins and messages and messages[-1]["role"] == "assistant"):
        messages.append({"role": "assistant", "content": None})
    calls = messages[-1].setdefault("tool_calls", [])
    assert isinstance(calls, list)
    calls.append(call)


def _call_output(fields: Mapping[str, JsonValue], where: str) -> Message:
    content = _content(fields.get("output"), f"{where}.output")
    return {"role": "tool", "tool_call_id": _text(fields, "call_id", where), "content": content}
