"""Reads requests to OpenAI's Responses API."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.request_fields import boolean, integer
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, Tool
from tokenlane.benches.simulator.model.refusals import Refused

_REPEATED: Mapping[str, JsonValue] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""The fields of a request that its answer repeats, and what stands there if the request lacks them."""
_LEAST_TOKENS = 16
"""The lowest limit of tokens that OpenAI accepts."""


def read_response_request(body: Mapping[str, JsonValue]) -> Ask:
    """Return the request in the body.

    Raises:
        Refused: a field is wrong, or asks for what needs stored answers, which the simulator does not have.
    """
    if body.get("previous_response_id") is not None:
        named = body["previous_response_id"]
        raise Refused(
            "bad_request", f"Previous response with id {named!r} not found.", parameter="previous_response_id"
        )
    if boolean(body, "background", False):
        raise Refused("bad_request", "Background mode is not simulated.", parameter="background")
    limit = integer(body, "max_output_tokens")
    if limit is not None and limit < _LEAST_TOKENS:
        raise Refused("bad_request", f"Expected a value >= {_LEAST_TOKENS}.", parameter="max_output_tokens")
    schema, formatted = _format(body.get("text"))
    tool, must_call, may_call = _tool_choice(body.get("tool_choice"))
    reasoning = body.get("reasoning")
    return Ask(
        model=str(body.get("model") or ""),
        turns=_turns(body),
        max_tokens=limit,
        tools=_tools(body.get("tools")) if may_call else (),
        tool=tool,
        must_call=must_call,
        schema=schema,
        formatted=formatted,
        think=False if isinstance(reasoning, dict) and reasoning.get("effort") == "none" else None,
        stream=boolean(body, "stream", False),
        repeated={name: default if body.get(name) is None else body[name] for name, default in _REPEATED.items()},
    )


def _turns(body: Mapping[str, JsonValue]) -> tuple[ConversationTurn, ...]:
    given = body.get("input")
    instructions = body.get("instructions")
    turns = [ConversationTurn("system", instructions)] if isinstance(instructions, str) else []
    if isinstance(given, str):
        return (*turns, ConversationTurn("user", given))
    if not isinstance(given, list) or not given:
        raise Refused("bad_request", "input must be a string or a list of items", parameter="input")
    return (*turns, *map(_turn, given))


def _turn(item: JsonValue) -> ConversationTurn:
    match item:
        case {"role": str(role), "content": content}:
            return ConversationTurn(role, *_text_and_images(content))
        case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            return ConversationTurn("assistant", json.dumps([call_id, name, arguments]))
        case {"type": "function_call_output", "call_id": str(), "output": output}:
            return ConversationTurn("tool", *_text_and_images(output))
        case {"type": "reasoning"}:
            return ConversationTurn("assistant", "")
    raise Refused("bad_request", "an item of input is of no supported type", parameter="input")


def _text_and_images(content: JsonValue) -> tuple[str, int]:
    if isinstance(content, str):
        return content, 0
    texts: list[str] = []
    images = 0
    for part in content if isinstance(content, list) else ():
        match part:
            case {"type": "input_text" | "output_text", "text": str(text)}:
                texts.append(text)
            case {"type": "input_image"}:
                images += 1
            case _:
                raise Refused("bad_request", "a part of content is of no supported type", parameter="input")
    return "\n".join(texts), images


def _tools(offered: JsonValue) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for tool in offered if isinstance(offered, list) else ():
        fields = tool if isinstance(tool, dict) else {}
        match fields:
            case {"type": "function", "name": str(name)}:
                tools.append(Tool(name, fields.get("parameters")))
            case _:
                raise Refused("bad_request", "only functions with a name are simulated", parameter="tools")
    return tuple(tools)


def _tool_choice(choice: JsonValue) -> tuple[str | None, bool, bool]:
    """Return the tool that the model must call, whether it must call any tool, and whether it may call tools."""
    match choice:
        case None | "auto":
            return None, False, True
        case "none":
            return None, False, False
        case "required":
            return None, True, True
        case {"type": "function", "name": str(name)}:
            return name, True, True
    raise Refused("bad_request", "tool_choice is not supported", parameter="tool_choice")


def _format(text: JsonValue) -> tuple[JsonValue, bool]:
    """Return the JSON schema of the answer, and whether the answer must be JSON."""
    match text.get("format") if isinstance(text, dict) else None:
        case None | {"type": "text"}:
            return None, False
        case {"type": "json_object"}:
            return {"type": "object"}, True
        case {"type": "json_schema", "schema": schema}:
            return schema, True
    raise Refused("bad_request", "text.format is not supported", parameter="text.format")
