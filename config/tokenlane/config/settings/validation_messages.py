"""Messages for wrong settings: where the setting is, which key is wrong, and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from .toml_lines import Path

WHOLE = "whole"
"""The type of an error whose message is complete but for the key in front of it."""

_SECRET = re.compile(r"(.*_)?(api_?key|key|auth_?token|access_?token|token|password|secret|bearer)", re.IGNORECASE)
_SECRET_ADVICE = 'keep secrets in an environment variable, and name that variable: api_key_env = "NAME"'

_Schema = dict[str, Any]


def explained(error: ValidationError, schema: type[BaseModel], where: Callable[[Path], str]) -> str:
    """Return one line for each wrong key. No value is quoted, since it may be a secret; a validator's own message may
    show a host and a port.

    Args:
        schema: the model that was validated.
        where: the source of a key, such as its file and line.
    """
    root = schema.model_json_schema()
    lines: dict[Path, str] = {}
    for wrong in error.errors(include_url=False, include_input=False):
        path, node = _known(root, wrong["loc"])
        if path[-1:] == wrong["loc"][-1:] and len(path) < len(wrong["loc"]):
            lines.pop(path[:-1], None)  # in a union of a text and a table, the table was meant
        if wrong["type"] == "extra_forbidden":
            key = str(wrong["loc"][-1])
            lines.pop(path, None)  # as above
            path, text = (*path, key), _unknown(root, path, key, node)
        elif wrong["loc"][-1] == "[key]":
            path = wrong["loc"][:-1]
            text = f"[{_dotted(path)}]: the name must be {node['propertyNames']['description']}."
        elif wrong["type"] == WHOLE:
            text = f"{_dotted(path)} {wrong['msg']}"
        else:
            text = f"{_dotted(path)} must be {' or '.join(_descriptions(root, node)) or wrong['msg']}."
        lines.setdefault(path, f"{where(path)}: {text}")
    return "\n".join(lines.values())


def did_you_mean(name: str, names: list[str], *, prefix: str = "") -> str:
    """Return ` Did you mean …?`; empty if no name is near. `prefix`: the start of the name that `names` lack."""
    near = get_close_matches(name.removeprefix(prefix), names, n=1)
    return f" Did you mean {prefix + near[0]!r}?" if near else ""


def _unknown(root: _Schema, path: Path, key: str, node: _Schema) -> str:
    names = [name for variant in _variants(root, node) for name in variant.get("properties", ())]
    section = f" in [{_dotted(path)}]" if path else ""
    if _SECRET.fullmatch(key) and "api_key_env" in names:
        return f"{key!r}{section} is not allowed: {_SECRET_ADVICE}."
    kind = "section" if "defaults" in names else "key"
    return f"unknown {kind} {key!r}{section}.{did_you_mean(key, names)} Allowed: {', '.join(names)}."


def _known(root: _Schema, loc: Path) -> tuple[Path, _Schema]:
    """The path of an error without pydantic's names for the parts of a union, and the schema at that path."""
    if loc[-1:] == ("[key]",):
        loc = loc[:-2]  # the error is about a name in the table, not about the value under it
    node, path = root, loc[:0]
    for part in loc:
        if inner := next(_members(root, node, part), None):
            node, path = inner, (*path, part)
    return path, node


def _members(root: _Schema, node: _Schema, part: str | int) -> Iterator[_Schema]:
    for variant in _variants(root, node):
        if isinstance(part, int) and "items" in variant:
            yield variant["items"]
        elif part in variant.get("properties", ()):
            yield variant["properties"][part]
        elif isinstance(variant.get("additionalProperties") or variant.get("patternProperties"), dict):
            yield variant.get("additionalProperties") or next(iter(variant["patternProperties"].values()))


def _variants(root: _Schema, node: _Schema) -> Iterator[_Schema]:
    """The schemas that a value may match: references resolved, unions flattened."""
    if "$ref" in node:
        yield from _variants(root, root["$defs"][node["$ref"].rpartition("/")[2]])
    elif "anyOf" in node:
        for variant in node["anyOf"]:
            yield from _variants(root, variant)
    else:
        yield node


def _descriptions(root: _Schema, node: _Schema) -> list[str]:
    if "description" in node:
        return [node["description"]]
    kinds = (
        "a table" if variant["type"] == "object" else variant.get("description") for variant in _variants(root, node)
    )
    return list(dict.fromkeys(kind for kind in kinds if kind))


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
