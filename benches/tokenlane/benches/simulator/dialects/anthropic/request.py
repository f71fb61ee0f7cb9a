"""Reads requests to Anthropic's Messages API."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.request_fields import boolean, integer, stops
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, Tool
from tokenlane.benches.simulator.model.refusals import Refused


def read_messages_request(body: Mapping[str, JsonValue]) -> Ask:
    """Return the request in the body. A last message of the assistant is the beginning of the answer.

    Raises:
        Refused: a field is wrong or missing.
    """
    limit = integer(body, "max_tokens")
    if limit is None:
        raise Refused("bad_request", "max_tokens: Field required")
    if limit < 1:
        raise Refused("bad_request", "max_tokens: Input should be greater than or equal to 1")
    turns, prefill = conversation(body)
    tool, must_call, may_call = _tool_choice(body.get("tool_choice"))
    schema = _schema(body.get("output_config"))
    thinking = body.get("thinking")
    return Ask(
        model=str(body.get("model") or ""),
        turns=turns,
        prefill=prefill,
        max_tokens=limit,
        stop=stops(body.get("stop_sequences")),
        tools=_tools(body.get("tools")) if may_call else (),
        tool=tool,
        must_call=must_call,
        schema=schema,
        formatted=schema is not None,
        think=isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive"),
        stream=boolean(body, "stream", False),
    )


def conversation(body: Mapping[str, JsonValue]) -> tuple[tuple[ConversationTurn, ...], str]:
    """Return the conversation without the beginning of the answer, and that beginning.

    Raises:
        Refused: there are no messages, or one is not shaped as Anthropic's are.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("bad_request", "messages: at least one message is required")
    system = body.get("system")
    turns = [] if system is None else [_turn("system", system)]
    for message in messages:
        match message:
            case {"role": "user" | "assistant" | "system" as role, "content": content}:
                turns.append(_turn(str(role), content))
            case _:
                raise Refused("bad_request", "messages: a message needs a role, user or assistant, and content")
    prefill = turns.pop().content if turns[-1].role == "assistant" else ""
    return tuple(turns), prefill


def _turn(role: str, content: JsonValue) -> ConversationTurn:
    """Return one message. Its role is `tool` if it has the result of a tool."""
    if isinstance(content, str):
        return ConversationTurn(role, content)
    if not isinstance(content, list):
        raise Refused("bad_request", "content: should be a string or a list of blocks")
    texts: list[str] = []
    images = 0
    for block in content:
        fields = block if isinstance(block, dict) else {}
        match fields:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image" | "document"}:
                images += 1
            case {"type": "tool_use", "id": str(call_id), "name": str(name), "input": given}:
                texts.append(json.dumps([call_id, name, given]))
            case {"type": "tool_result", "tool_use_id": str()}:
                role = "tool"
                result = _turn(role, fields.get("content") or "")
                texts.append(result.content)
                images += result.images
            case {"type": "thinking" | "redacted_thinking"}:
                pass
            case _:
                raise Refused("bad_request", "content: a block is of no supported type")
    return ConversationTurn(role, "\n".join(texts), images)


def _tools(offered: JsonValue) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for tool in offered if isinstance(offered, list) else ():
        match tool:
            case {"name": str(name), "input_schema": schema}:
                tools.append(Tool(name, schema))
            case _:
                raise Refused("bad_request", "tools: only tools with a name and an input_schema are simulated")
    return tuple(tools)


def _tool_choice(choice: JsonValue) -> tuple[str | None, bool, bool]:
    """Return the tool that the model must call, whether it must call any tool, and whether it may call tools."""
    match choice:
        case None | {"type": "auto"}:
            return None, False, True
        case {"type": "none"}:
            return None, False, False
        case {"type": "any"}:
            return None, True, True
        case {"type": "tool", "name": str(name)}:
            return name, True, True
    raise Refused("bad_request", "tool_choice: is not supported")


def _schema(output: JsonValue) -> JsonValue:
    """Return the JSON schema of the answer; None if any text will do."""
    match output.get("format") if isinstance(output, dict) else None:
        case None:
            return None
        case {"type": "json_schema", "schema": dict(schema)}:
            return schema
    raise Refused("bad_request", "output_config.format: is not supported")
