"""Reads the messages and tools of a Chat Completions request: what clients add for other servers is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Refused

Object: TypeAlias = dict[str, JsonValue]

_IGNORED = frozenset(
    {
        "annotations",
        "cache_control",
        "parsed",
        "prefix",
        "prompt_cache_breakpoint",
        "provider_specific_fields",
        "reasoning_details",
        "thinking_blocks",
    }
)
"""Keys that say how to cache a message, or what else an earlier answer came with."""


def read_messages(messages: Sequence[Object]) -> list[Object]:
    """The messages without hints.

    Raises:
        Refused: a message has a part that only OpenAI's own servers could read.
    """
    return [_message(message, f"messages.{place}") for place, message in enumerate(messages)]


def read_tools(
    tools: Sequence[Object] | None, choice: str | Object | None
) -> tuple[list[Object] | None, str | Object | None]:
    """The tools and the choice among them. A choice of `allowed_tools` leaves only these.

    Raises:
        Refused: a tool is not a function, or the choice is not one of tools that are functions.
    """
    for place, tool in enumerate(tools or ()):
        if tool.get("type") != "function":
            param = f"tools.{place}.type"
            raise Refused(
                400, "unsupported_parameter", f"`{param}` must be `function`: pools run no other tools.", param=param
            )
    plain = None if tools is None else [_without(tool, {"cache_control"}) for tool in tools]
    if not isinstance(choice, dict) or choice.get("type") == "function":
        return plain or None, choice
    if choice.get("type") != "allowed_tools" or not isinstance(allowed := choice.get("allowed_tools"), dict):
        what = "`tool_choice` must be a text, or have the type `function` or `allowed_tools`."
        raise Refused(400, "unsupported_parameter", what, param="tool_choice")
    given, mode = allowed.get("tools"), allowed.get("mode")
    names = {_name(tool) for tool in given} if isinstance(given, list) else set[object]()
    kept = [tool for tool in plain or () if _name(tool) in names]
    if mode not in ("auto", "required") or len(kept) != len(names):
        what = "`tool_choice.allowed_tools` needs the mode `auto` or `required`, and names of functions among `tools`."
        raise Refused(400, "bad_request", what, param="tool_choice")
    return kept or None, mode if kept else None


def _message(message: Object, where: str) -> Object:
    plain = _without(message, _IGNORED)
    if isinstance(parts := plain.get("content"), list):
        plain["content"] = [_part(part, f"{where}.content.{place}") for place, part in enumerate(parts)]
    return plain


def _part(part: JsonValue, where: str) -> JsonValue:
    if not isinstance(part, dict):
        return part
    if part.get("type") == "file":
        what = f"`{where}` is a file, which a pool cannot read: send its text, or images of its pages."
        raise Refused(400, "unsupported_parameter", what, param=where)
    return _without(part, _IGNORED)


def _without(fields: Mapping[str, JsonValue], names: set[str] | frozenset[str]) -> Object:
    return {name: value for name, value in fields.items() if name not in names}


def _name(tool: JsonValue) -> object:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None
