"""Translates tools and the choice of one. The pool's models call functions; tools that OpenAI hosts are refused.

A namespace groups functions. A model knows none, so a function in one gets a name that has both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Refused

_SWITCH_OFF = {
    "web_search": ' In Codex, switch it off with `web_search = "disabled"` in config.toml.',
    "custom": " Offer it as a function with one text as its parameter.",
}


_IN = "--in--"
"""What stands between the names of a function and its namespace, which no function has in its own name."""


def joined(name: str, namespace: object) -> str:
    """The name by which a model calls a function. `namespace`: None for a function in none."""
    return f"{name}{_IN}{namespace}" if isinstance(namespace, str) else name


def parted(name: str) -> dict[str, str]:
    """The name of a function that a model calls, and its namespace if it has one, as fields of an item."""
    name, _, namespace = name.partition(_IN)
    return {"name": name, "namespace": namespace} if namespace else {"name": name}


def to_chat_tools(tools: Sequence[Mapping[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """Tools in the nested form of Chat Completions.

    Raises:
        Refused: a tool is not a function.
    """
    return [each for place, tool in enumerate(tools) for each in _to_chat_tools(tool, f"tools[{place}]")]


def as_shown(tools: Sequence[Mapping[str, JsonValue]]) -> list[JsonValue]:
    """Tools as a response shows them: with all fields."""
    empty = {"description": None, "parameters": None, "strict": None}
    return [{**({} if tool.get("type") == "namespace" else empty), **tool} for tool in tools]


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
            name = joined(name, choice.get("namespace"))
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
    names = {joined(str(tool.get("name")), tool.get("namespace")) for tool in allowed if isinstance(tool, dict)}
    if unknown := names - set(map(_name, tools)):
        raise _refused(f"`tool_choice.tools` names {str(next(iter(unknown)))[:60]!r}, which is not one of `tools`.")
    return str(mode), [tool for tool in tools if _name(tool) in names]


def _to_chat_tools(tool: Mapping[str, JsonValue], where: str) -> Iterator[dict[str, JsonValue]]:
    if tool.get("type") != "namespace":
        yield _to_chat_tool(tool, where)
        return
    namespace, tools = tool.get("name"), tool.get("tools")
    if not (isinstance(namespace, str) and isinstance(tools, list)):
        message = f"`{where}` is a namespace: it needs a `name` and a list of `tools`."
        raise Refused(400, "bad_request", message, param=where)
    for place, each in enumerate(tools):
        inside = f"{where}.tools[{place}]"
        if not isinstance(each, dict):
            raise Refused(400, "bad_request", f"`{inside}` must be a JSON object.", param=inside)
        yield _to_chat_tool(each, inside, namespace)


def _to_chat_tool(tool: Mapping[str, JsonValue], where: str, namespace: str | None = None) -> dict[str, JsonValue]:
    kind = str(tool.get("type"))[:60]
    if kind != "function":
        known = next((hint for name, hint in _SWITCH_OFF.items() if kind.startswith(name)), "")
        message = f"`{where}` is of type {kind!r}, and the pool's models call only functions.{known}"
        raise Refused(400, "unsupported_tool", message, param=where)
    if not isinstance(name := tool.get("name"), str):
        raise Refused(400, "bad_request", f"`{where}.name` must be a text.", param=f"{where}.name")
    fields = ("description", "parameters", "strict")
    function: dict[str, JsonValue] = {field: tool[field] for field in fields if tool.get(field) is not None}
    return {"type": "function", "function": {"name": joined(name, namespace), **function}}


def _name(tool: Mapping[str, JsonValue]) -> JsonValue:
    function = tool["function"]
    return function.get("name") if isinstance(function, dict) else None


def _refused(message: str) -> Refused:
    return Refused(400, "bad_request", message, param="tool_choice")
