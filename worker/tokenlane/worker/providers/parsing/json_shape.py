"""Finds the field with the wrong type in a server's JSON, and names its path and type, never its value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

Shape: TypeAlias = "type | tuple[Shape, ...] | Mapping[str, Shape] | list[Shape]"
"""The expected form of a JSON value: a type, the fields of an object (each of which may be absent), the elements of a
list, or a tuple of alternatives."""

_FUNCTION: Shape = {"name": str, "arguments": (str, dict)}
_PIECE: Shape = {
    "content": (str, [dict], dict),
    "refusal": str,
    "reasoning": str,
    "reasoning_content": str,
    "thinking": str,
    "tool_calls": [{"index": int, "id": (str, int), "function": _FUNCTION, "extra_content": dict}],
    "function_call": _FUNCTION,
}
_COUNT: Shape = (int, float)
_TOKENS: Shape = [{"token": str, "logprob": _COUNT}]
_LOGPROBS: Shape = {"content": _TOKENS, "refusal": _TOKENS, "tokens": [str], "token_logprobs": [_COUNT]}
_USAGE: Shape = {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "prompt_tokens_details": dict}
OPENAI_CHUNK: Shape = {
    "model": str,
    "choices": [
        {
            "index": int,
            "delta": _PIECE,
            "message": _PIECE,
            "text": str,
            "logprobs": _LOGPROBS,
            "finish_reason": str,
            "usage": _USAGE,
        },
    ],
    "usage": _USAGE,
}
OLLAMA_LINE: Shape = {
    "model": str,
    "message": _PIECE,
    "logprobs": _TOKENS,
    "done_reason": str,
    "prompt_eval_count": _COUNT,
    "eval_count": _COUNT,
}
EMBEDDINGS: Shape = {"model": str, "data": [{"index": int, "embedding": (list, str)}], "embeddings": [list]}

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
_LONGEST_NAME = 32


def wrong_field(value: object, shape: Shape, path: str = "") -> str | None:
    """The first field with the wrong type, as "`choices[0].delta` is a number"; None if all types are right."""
    part = next((each for each in (shape if isinstance(shape, tuple) else (shape,)) if _fits(value, each)), None)
    if part is None:
        return f"{f'`{path}`' if path else 'the value'} is {kind_of(value)}"
    inner: list[tuple[object, Shape, str]] = []
    if isinstance(part, Mapping) and isinstance(value, dict):
        prefix = f"{path}." if path else ""
        inner = [(value[name], field, f"{prefix}{name}") for name, field in part.items() if value.get(name) is not None]
    elif isinstance(part, list) and isinstance(value, list):
        inner = [(element, part[0], f"{path}[{number}]") for number, element in enumerate(value)]
    return next((wrong for each in inner if (wrong := wrong_field(*each)) is not None), None)


def _fits(value: object, shape: Shape) -> bool:
    """Whether the value itself has the right type. Its contents are not checked."""
    if isinstance(shape, Mapping):
        return isinstance(value, dict)
    if isinstance(shape, list):
        return isinstance(value, list)
    return isinstance(shape, type) and isinstance(value, shape) and not isinstance(value, bool)


def count_of(value: Any) -> int:
    """A number of tokens; 0 for null, negative numbers and infinity, which servers send if they do not know the number.

    Raises:
        TypeError: the value is not a number.
    """
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) else 0
    return max(0, value or 0)


def kind_of(value: object) -> str:
    """The type of a JSON value, in words."""
    return _KINDS.get(type(value), "null")


def names_of(fields: Mapping[str, object]) -> str:
    """The names of an object's fields, for an error message. Names that are not short identifiers are left out."""
    names = sorted(name for name in fields if len(name) <= _LONGEST_NAME and name.isidentifier())
    return ", ".join(f"`{name}`" for name in names[:8]) or "none"
