"""Reads the lines of a batch's input, and checks them before any is asked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from .batch import LineError

MOST_LINES = 50_000
LINE_LIMIT_BYTES = 8 * 1024 * 1024
_MOST_ERRORS = 100
"""How many errors a batch names. OpenAI's API has a limit too."""


class Line(BaseModel):
    """One request of a batch."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, hide_input_in_errors=True)

    custom_id: str = Field(min_length=1, max_length=512, repr=False)
    method: str
    url: str
    body: dict[str, JsonValue] = Field(repr=False)


class Numbered(NamedTuple):
    """A line and its number in the file, from 1. `text`: None if the line is too long."""

    number: int
    text: bytes | None


def numbered(content: Iterable[bytes]) -> Iterator[Numbered]:
    """The lines of a file that are not blank."""
    number, rest, is_long = 1, bytearray(), False
    for piece in content:
        *ends, tail = piece.split(b"\n")
        for end in ends:
            rest += end
            if is_long or len(rest) > LINE_LIMIT_BYTES:
                yield Numbered(number, None)
            elif text := bytes(rest).strip():
                yield Numbered(number, text)
            number, is_long = number + 1, False
            rest.clear()
        rest += tail
        if len(rest) > LINE_LIMIT_BYTES:
            is_long = True
            rest.clear()
    if is_long:
        yield Numbered(number, None)
    elif text := bytes(rest).strip():
        yield Numbered(number, text)


def parse(text: bytes) -> Line:
    """Read a line.

    Raises:
        ValidationError: it is not a valid line.
        ValueError: it is no JSON.
    """
    return Line.model_validate(json.loads(text))


def check(content: Iterable[bytes], endpoint: str) -> tuple[int, list[LineError]]:
    """How many lines an input has, and what is wrong with it, at most the first hundred errors."""
    seen: set[str] = set()
    errors: list[LineError] = []
    total = 0
    for number, text in numbered(content):
        total += 1
        if (error := _error_of(text, endpoint, seen)) is not None:
            code, message, param = error
            errors.append(LineError(code=code, message=message, line=number, param=param))
            if len(errors) == _MOST_ERRORS:
                break
    if total > MOST_LINES:
        message = f"The file has more than {MOST_LINES} lines: divide it."
        errors.append(LineError(code="too_many_lines", message=message))
    if total == 0:
        errors.append(LineError(code="empty_file", message="The file has no lines: upload one request per line."))
    return total, errors


def _error_of(text: bytes | None, endpoint: str, seen: set[str]) -> tuple[str, str, str | None] | None:
    """The code, the message and the field of what is wrong with a line; None if it is valid."""
    if text is None:
        return "line_too_long", f"The line is longer than {LINE_LIMIT_BYTES} bytes: shorten it.", None
    try:
        line = parse(text)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        param = ".".join(map(str, first["loc"][:1]))
        return "invalid_line", f"`{param}` is not valid: {first['msg']}.", param or None
    except (ValueError, RecursionError):
        return "invalid_json_line", "The line is not valid JSON: write one JSON object per line.", None
    if line.method != "POST":
        return "invalid_method", "`method` must be POST.", "method"
    if line.url != endpoint:
        return "mismatched_url", f"`url` must be the batch's endpoint, {endpoint}.", "url"
    if line.body.get("stream"):
        return "stream_not_supported", "A batch cannot stream answers: leave `body.stream` out.", "body.stream"
    if line.custom_id in seen:
        return "duplicate_custom_id", "An earlier line has the same `custom_id`: give each line its own.", "custom_id"
    seen.add(line.custom_id)
    return None
