"""Reads and validates the request fields that several dialects have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from tokenlane.benches.simulator.model.answer import ConversationTurn, Tool
from tokenlane.benches.simulator.model.refusals import Refused

_DURATION = re.compile(r"(-?\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse(body: bytes) -> dict[str, JsonValue]:
    """Parse the body of a request.

    Raises:
        Refused: the body is not a JSON object.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused("bad_request", f"the body is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise Refused("bad_request", "the body is not a JSON object")
    return parsed


def integer(body: Mapping[str, JsonValue], *names: str) -> int | None:
    """Return the first of these options that is set; None if none is.

    Raises:
        Refused: the option is not a whole number.
    """
    for name in names:
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise Refused("bad_request", f"{name} must be an integer", parameter=name)
        return int(value)
    return None


def boolean(body: Mapping[str, JsonValue], name: str, default: bool) -> bool:
    """Return an option that is true or false.

    Raises:
        Refused: the option is neither.
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Refused("bad_request", f"{name} must be true or false", parameter=name)
    return value


def stops(value: JsonValue, most: int | None = None) -> tuple[str, ...]:
    """Return the stop strings.

    Args:
        most: how many the server accepts; None: no limit.

    Raises:
        Refused: the value does not consist of strings, or there are too many.
    """
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(stop, str) for stop in strings):
        raise Refused("bad_request", "stop must be a string or a list of strings", parameter="stop")
    if most is not None and len(strings) > most:
        raise Refused("bad_request", f"`stop` supports up to {most} stop sequences. Given: {len(strings)}")
    return tuple(str(stop) for stop in strings)


def text_of(content: JsonValue) -> tuple[str, int]:
    """Return the text of a message and the number of its images."""
    if isinstance(content, str):
        return content, 0
    texts: list[str] = []
    images = 0
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") == "text":
            texts.append(str(part.get("text", "")))
        elif isinstance(part, dict) and part.get("type") == "image_url":
            images += 1
    return "\n".join(texts), images


def openai_turns(messages: JsonValue) -> tuple[ConversationTurn, ...]:
    """Return the conversation in OpenAI's `messages`.

    Raises:
        Refused: the value is not a list of messages with roles.
    """
    if not isinstance(messages, list):
        raise Refused("bad_request", "messages must be a list", parameter="messages")
    turns: list[ConversationTurn] = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused("bad_request", "a message needs a role", parameter="messages")
        text, images = text_of(message.get("content"))
        calls = message.get("tool_calls")
        turns.append(ConversationTurn(str(message["role"]), text + (json.dumps(calls) if calls else ""), images))
    return tuple(turns)


def tools_of(value: JsonValue) -> tuple[Tool, ...]:
    """Return the tools in OpenAI's `tools`.

    Raises:
        Refused: a tool is not a function with a name.
    """
    tools: list[Tool] = []
    for offered in value if isinstance(value, list) else ():
        function = offered.get("function") if isinstance(offered, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Refused("bad_request", "a tool needs a function with a name", parameter="tools")
        tools.append(Tool(str(function["name"]), function.get("parameters")))
    return tuple(tools)


def texts(value: JsonValue) -> Sequence[str] | None:
    """Return the inputs of an embedding request; None if they are not texts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return [str(text) for text in value]
    return None


def seconds(value: JsonValue) -> float | None:
    """Return Ollama's `keep_alive` in seconds; None if it is negative, which means forever.

    Args:
        value: a number of seconds, or a duration in Go's notation such as `5m`.

    Raises:
        Refused: the value is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None if value < 0 else float(value)
    parts = list(_DURATION.finditer(value)) if isinstance(value, str) else []
    if not isinstance(value, str) or "".join(part[0] for part in parts) != value or not parts:
        raise Refused("bad_request", f"time: invalid duration {json.dumps(value)}", parameter="keep_alive")
    total = sum(float(part[1]) * _UNITS_S[part[2]] for part in parts)
    return None if total < 0 else total


def json_object(body: bytes) -> dict[str, JsonValue]:
    """Return the body as a JSON object; an empty object if it is anything else."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def model_named(body: dict[str, JsonValue]) -> str:
    """Return the model that a request of any dialect names; empty if it names none."""
    for name in ("model", "name", "instance_id"):
        if isinstance(model := body.get(name), str):
            return model
    return ""
