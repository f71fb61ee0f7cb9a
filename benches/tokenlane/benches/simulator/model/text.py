"""The simulated model's text: a pure function of the seed and the conversation, so that any server can continue it."""

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
"""How many tokens the simulated tokenizer has."""
_TOKEN = re.compile(r"\s*\S+\s?|\s+")
_PIECE = re.compile(r"\w+|[^\w]")
_UNFOLDED = 2
"""How often a part of a schema is taken up inside itself."""
_DEEPEST = 16
"""How many references may lead from one part to another."""

_PROSE = """
the queue carries every token from a lane to its agent and none is lost while café naïve über 東京 données 🚀 workers
wait for work they know how to do when routers place what agents ask of small models on quiet machines λ gives Σ over
many streams at once and then one answer ends as another begins in good order again
"""
_WORDS = _PROSE.split()


def words(seed: int | None, conversation: str) -> Iterator[str]:
    """Words without end, a token each.

    Args:
        seed: None counts them, `w0 w1 w2 `, whatever was asked: nothing lost or repeated goes unseen.
        conversation: what the words depend on besides the seed.
    """
    return map(_counted, count()) if seed is None else _drawn(seed, conversation)


@lru_cache(maxsize=65_536)
def _counted(number: int) -> str:
    return f"w{number} "


def _drawn(seed: int, conversation: str) -> Iterator[str]:
    for block in count():
        digest = hashlib.sha256(f"{seed}\0{block}\0{conversation}".encode("utf-8", "surrogatepass")).digest()
        for byte in digest:
            yield _WORDS[byte % len(_WORDS)] + " "


def after(prefix: str, pieces: Iterable[str], whole: int) -> Iterator[str]:
    """What of the first `whole` pieces is left once `prefix` has been said; the rest of a piece it cuts comes first.

    A prefix that is not how the pieces begin counts by its length, as a model continues whatever it is given.
    """
    if not prefix:
        return islice(pieces, whole)
    return _left(len(prefix), islice(pieces, whole))


def _left(skip: int, pieces: Iterable[str]) -> Iterator[str]:
    for piece in pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:]
        skip = 0


def pieces_of(text: str) -> list[str]:
    """Return the tokens of text that is no prose, such as JSON."""
    return _PIECE.findall(text)


def count_tokens(text: str) -> int:
    """Return the number of tokens in a text: one a word."""
    return sum(1 for _ in _TOKEN.finditer(text))


def split_tokens(text: str) -> list[str]:
    """Return the tokens of a text."""
    return [found[0] for found in _TOKEN.finditer(text)]


def token_ids(text: str) -> list[int]:
    """Return the tokens of a text as numbers."""
    return [_token_id(token) for token in split_tokens(text)]


@lru_cache(maxsize=4096)
def _token_id(token: str) -> int:
    return zlib.crc32(token.encode("utf-8", "surrogatepass")) % VOCABULARY


class _NoneFitsError(Exception):
    """No finite JSON fits this part of a schema."""


def example(schema: JsonValue) -> str:
    """JSON that fits the schema: for each type the least that is allowed. A property that need not be there is, unless
    it would never end."""
    try:
        found = {} if schema is True else _instance(schema, schema, ())
    except (_NoneFitsError, RecursionError):
        found = None
    return json.dumps(found, ensure_ascii=False)


def _instance(schema: JsonValue, root: JsonValue, opened: tuple[str, ...]) -> JsonValue:
    """
    Args:
        opened: the references that led here.
    """
    if schema is False or len(opened) > _DEEPEST:
        raise _NoneFitsError
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
            raise _NoneFitsError
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
        with suppress(_NoneFitsError):
            return _instance(option, root, opened)
    raise _NoneFitsError


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
    found: dict[str, JsonValue] = {}
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        try:
            found[name] = _instance(inner, root, opened)
        except _NoneFitsError:
            if isinstance(required, list) and name in required:
                raise
    return found


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
    whole: dict[str, JsonValue] = {}
    properties: dict[str, JsonValue] = {}
    required: list[JsonValue] = []
    for part in parts:
        if isinstance(part, dict):
            reference = part.get("$ref")
            found = _resolve(reference, root) if isinstance(reference, str) else part
            if isinstance(found, dict):
                whole |= found
                inner = found.get("properties")
                properties |= inner if isinstance(inner, dict) else {}
                needed = found.get("required")
                required += needed if isinstance(needed, list) else []
    return whole | {"properties": properties, "required": required} if properties else whole
