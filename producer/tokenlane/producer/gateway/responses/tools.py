"""Translates tools and the choice of one. The pool's models call functions; tools that OpenAI hosts are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Refused

_SWITCH_OFF = {
    "web_search": ' In Codex, switch it off with `web_search = "disabled"` in config.toml.',
    "custom": " Offer it as a function with one text as its parameter.",
}


def to_chat_tools(tools: Sequence[Mapping[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """Tools in the nested form of Chat Completions.

    Raises:
        Refused: a tool is not a function.
    """
    return [_to_chat_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]


def as_shown(tools: Sequence[Mapping[str, JsonValue]]) -> list[JsonValue]:
    """Tools as a response shows them: with all fields."""
    return [{"description": None, "parameters": None, "strict": None, **tool} for tool in tools]


def to_chat_choice(
    choice: JsonValue, tools: list[dict[str, JsonValue]]
) -> tuple[str | dict[str, JsonValue] | None, list[dict[str, JsonValue]]]:
    """The choice of a tool in the form of Chat Completions, and the tools that it leaves to choose from.

    Raises:
        Refused: it chooses a tool that OpenAI hosts, or one that is not offered.
    """
    if choice is None or isinstance(choice, str):
        if choice not in (None, "none", "auto", "required"):
            raise _refused(f"`tool_choice` is {choice[:60]!r}: choose none, auto, required or a function.")
        return choice, tools
    if isinstance(choice, dict):
        if choice.get("type") == "function" and isinstance(name := choice.get("name"), str):
            if name not in map(_name, tools):
                raise _refused(f"`tool_choice` names {name[:60]!r}, which is not one of `tools`.")
            return {"type": "function", "function": {"name": name}}, tools
        if choice.get("type") == "allowed_tools":
            return _allowed(choice, tools)
    raise _refused("`tool_choice` must be none, auto, required, a function, or `allowed_tools` with functions.")


def _allowed(
    choice: Mapping[str, JsonValue], tools: list[dict[str, JsonValue]]
) -> tuple[str, list[dict[str, JsonValue]]]:
    mode, allowed = choice.get("mode", "auto"), choice.get("tools")
    if mode not in ("auto", "required") or not isinstance(allowed, list):
        raise _refused("`tool_choice.mode` must be auto or required, and `tool_choice.tools` a list of functions.")
    names = {tool.get("name") for tool in allowed if isinstance(tool, dict)}
    if unknown := names - set(map(_name, tools)):
        raise _refused(f"`tool_choice.tools` names {str(next(iter(unknown)))[:60]!r}, which is not one of `tools`.")
    return str(mode), [tool for tool in tools if _name(tool) in names]


def _to_chat_tool(tool: Mapping[str, JsonValue], where: str) -> dict[str, JsonValue]:
    kind = str(tool.get("type"))[:60]
    if kind != "function":
        known = next((hint for name, hint in _SWITCH_OFF.items() if kind.startswith(name)), "")
        message = f"`{where}` is of type {kind!r}, and the pool's models call only functions.{known}"
        raise Refused(400, "unsupported_tool", message, param=where)
    if not isinstance(tool.get("name"), str):
        raise Refused(400, "bad_request", f"`{where}.name` must be a text.", param=f"{where}.name")
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _name(tool: Mapping[str, JsonValue]) -> JsonValue:
    function = tool["function"]
    return function.get("name") if isinstance(function, dict) else None


def _refused(message: str) -> Refused:
    return Refused(400, "bad_request", message, param="tool_choice")
