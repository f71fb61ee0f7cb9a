"""The text of the simulated model: a function of the seed and the conversation, so any server can continue it."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count, islice

from pydantic import JsonValue

VOCABULARY = 32_000
"""The number of tokens in the vocabulary of the simulated tokenizer."""
_TOKEN = re.compile(r"\s*\S+\s?|\s+")
_PIECE = re.compile(r"\w+|[^\w]")
_UNFOLDED = 2
"""How many levels of a recursive schema an example has at most."""
_DEEPEST = 16
"""The longest chain of references in a schema."""

_PROSE = """
the queue carries every token from a lane to its agent and none is lost while café naïve über 東京 données 🚀 workers
wait for work they know how to do when routers place what agents ask of small models on quiet machines λ gives Σ over
many streams at once and then one answer ends as another begins in good order again
"""
_WORDS = _PROSE.split()


def words(seed: int | None, conversation: str) -> Iterator[str]:
    """Yield words without end, one token each.

    Args:
        seed: the seed of random words. None yields numbered words, `w0 w1 w2 `, so that a lost or repeated token is
            obvious.
        conversation: the text so far, on which random words depend.
    """
    return map(_numbered_word, count()) if seed is None else _random_words(seed, conversation)


@lru_cache(maxsize=65_536)
def _numbered_word(number: int) -> str:
    return f"w{number} "


def _random_words(seed: int, conversation: str) -> Iterator[str]:
    for block in count():
        digest = hashlib.sha256(f"{seed}\0{block}\0{conversation}".encode("utf-8", "surrogatepass")).digest()
        for byte in digest:
            yield _WORDS[byte % len(_WORDS)] + " "


def continuation(prefix: str, pieces: Iterable[str], length: int) -> Iterator[str]:
    """Yield the rest of the first `length` pieces after `prefix`. A piece that the prefix splits is yielded from there.

    Only the length of the prefix counts, not its text, since a model continues any beginning.
    """
    if not prefix:
        return islice(pieces, length)
    return _without_beginning(len(prefix), islice(pieces, length))


def _without_beginning(skip: int, pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:]
        skip = 0


def pieces_of(text: str) -> list[str]:
    """Return the tokens of a JSON text: words and single other characters."""
    return _PIECE.findall(text)


def count_tokens(text: str) -> int:
    """Return the number of tokens in a text. Every word is one token."""
    return sum(1 for _ in _TOKEN.finditer(text))


def split_tokens(text: str) -> list[str]:
    """Return the tokens of a text."""
    return [found[0] for found in _TOKEN.finditer(text)]


def token_ids(text: str) -> list[int]:
    """Return the numbers of the tokens of a text."""
    return [_token_id(token) for token in split_tokens(text)]


@lru_cache(maxsize=4096)
def _token_id(token: str) -> int:
    return zlib.crc32(token.encode("utf-8", "surrogatepass")) % VOCABULARY


class _NoValidValueError(Exception):
    """No finite JSON value is valid for this part of a schema."""


def example(schema: JsonValue) -> str:
    """Return JSON that is valid for a schema, with the smallest allowed value of each type.

    It includes optional properties, unless they would recurse without end. It is `null` if no value is valid.
    """
    try:
        value = {} if schema is True else _instance(schema, schema, ())
    except (_NoValidValueError, RecursionError):
        value = None
    return json.dumps(value, ensure_ascii=False)


def _instance(schema: JsonValue, root: JsonValue, opened: tuple[str, ...]) -> JsonValue:
    """Return a value for a part of a schema.

    Args:
        opened: the references that lead from the root to this part.

    Raises:
        _NoValidValueError: no value is valid.
    """
    if schema is False or len(opened) > _DEEPEST:
        raise _NoValidValueError
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if opened.count(reference) == _UNFOLDED:
            raise _NoValidValueError
        return _instance(_resolve(reference, root), root, (*opened, reference))
    for key in ("anyOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list) and options:
            return _first_that_ends(options, root, opened)
    parts = schema.get("allOf")
    if isinstance(parts, list) and parts:
        return _instance(_merged(parts, root), root, (*opened, "allOf"))
    return _of_type(schema, root, opened)


def _first_that_ends(options: Sequence[JsonValue], root: JsonValue, opened: tuple[str, ...]) -> JsonValue:
    for option in options:
        with suppress(_NoValidValueError):
            return _instance(option, root, opened)
    raise _NoValidValueError


def _of_type(schema: Mapping[str, JsonValue], root: JsonValue, opened: tuple[str, ...]) -> JsonValue:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    match kind:
        case "string":
            return _string(schema)
        case "integer" | "number":
            return _number(schema, whole=kind == "integer")
        case "boolean":
            return True
        case "null":
            return None
        case "array":
            least = schema.get("minItems")
            number = least if isinstance(least, int) else 0
            return [_instance(schema.get("items", {"type": "string"}), root, opened) for _ in range(number)]
        case _:
            return _object(schema, root, opened)


def _object(schema: Mapping[str, JsonValue], root: JsonValue, opened: tuple[str, ...]) -> JsonValue:
    properties, required = schema.get("properties"), schema.get("required")
    values: dict[str, JsonValue] = {}
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        try:
            values[name] = _instance(inner, root, opened)
        except _NoValidValueError:
            if isinstance(required, list) and name in required:
                raise
    return values


def _string(schema: Mapping[str, JsonValue]) -> str:
    formats = {"date": "2026-01-01", "date-time": "2026-01-01T00:00:00Z", "email": "a@example.org"}
    text = formats.get(str(schema.get("format")), "simulated")
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int):
        text = text.ljust(least, "x")
    return text[:most] if isinstance(most, int) else text


def _number(schema: Mapping[str, JsonValue], *, whole: bool) -> JsonValue:
    least, most, step = schema.get("minimum"), schema.get("maximum"), 1 if whole else 0.5
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(least, int | float):
        return least
    if isinstance(above, int | float):
        return above + step
    if isinstance(most, int | float):
        return min(1, most)
    if isinstance(below, int | float):
        return min(1, below - step)
    return 1 if whole else 1.5


def _resolve(reference: str, root: JsonValue) -> JsonValue:
    place = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        if name:
            place = place.get(name) if isinstance(place, dict) else None
    return place


def _merged(parts: Sequence[JsonValue], root: JsonValue) -> JsonValue:
    merged: dict[str, JsonValue] = {}
    properties: dict[str, JsonValue] = {}
    required: list[JsonValue] = []
    for part in parts:
        if isinstance(part, dict):
            reference = part.get("$ref")
            resolved = _resolve(reference, root) if isinstance(reference, str) else part
            if isinstance(resolved, dict):
                merged |= resolved
                inner = resolved.get("properties")
                properties |= inner if isinstance(inner, dict) else {}
                needed = resolved.get("required")
                required += needed if isinstance(needed, list) else []
    return merged | {"properties": properties, "required": required} if properties else merged
