"""Translates Anthropic's definitions of tools, and which of them the model may or must call."""

from __future__ import annotations

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Refused
from tokenlane.routing.contract.requests import ChatOptions

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def tool_options(tools: list[JsonValue], choice: JsonValue) -> ChatOptions:
    """The options of a chat with these tools.

    Raises:
        Refused: a tool or the choice is not valid, or a tool is one of Anthropic's own.
    """
    options: ChatOptions = {}
    if tools:
        options["tools"] = [_tool(tool, f"tools.{number}") for number, tool in enumerate(tools)]
    if choice is None:
        return options
    chosen, one_call = _choice(choice)
    if tools:
        options["tool_choice"] = chosen
        if one_call:
            options["parallel_tool_calls"] = False
    elif chosen not in ("auto", "none"):
        raise Refused(400, "bad_request", "`tool_choice` wants a tool, but there are no `tools`.", param="tool_choice")
    return options


def _choice(choice: JsonValue) -> tuple[str | dict[str, JsonValue], bool]:
    """The choice in OpenAI's format, and whether the model may call only one tool at a time."""
    if isinstance(choice, dict):
        one_call = choice.get("disable_parallel_tool_use") is True
        match choice:
            case {"type": "tool", "name": str(name)}:
                return {"type": "function", "function": {"name": name}}, one_call
            case {"type": str(kind)} if kind in _CHOICES:
                return _CHOICES[kind], one_call
    message = "`tool_choice` must have the type auto, any, none, or tool with a `name`."
    raise Refused(400, "bad_request", message, param="tool_choice")


def _tool(tool: JsonValue, where: str) -> dict[str, JsonValue]:
    if not isinstance(tool, dict):
        raise Refused(400, "bad_request", f"`{where}` must be an object.", param=where)
    kind = tool.get("type") or "custom"
    if kind != "custom":
        message = f"`{where}`: the tool {str(kind)[:60]!r} of Anthropic's is not supported: give an input_schema."
        raise Refused(400, "unsupported_tool", message, param=where)
    if tool.get("defer_loading") is True:
        message = f"`{where}.defer_loading` is not supported, since there is no tool search: leave it out."
        raise Refused(400, "unsupported_tool", message, param=f"{where}.defer_loading")
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not isinstance(schema, dict):
        message = f"`{where}` must have a `name` and an `input_schema`, which is an object."
        raise Refused(400, "bad_request", message, param=where)
    function: dict[str, JsonValue] = {"name": name, "parameters": schema}
    for field in ("description", "strict"):
        if (value := tool.get(field)) is not None:
            function[field] = value
    return {"type": "function", "function": function}
