"""What is wrong with a setting, said for the person who wrote it: where, which key, and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from .toml_lines import Path

WHOLE = "whole"
"""The type of an error whose text needs nothing but the key in front of it."""

_SECRET = re.compile(r"(.*_)?(api_?key|key|auth_?token|access_?token|token|password|secret|bearer)", re.IGNORECASE)
_SECRET_ADVICE = 'secrets do not stand here: put it into an environment variable and name that, api_key_env = "NAME"'

_Schema = dict[str, Any]


def explained(error: ValidationError, schema: type[BaseModel], where: Callable[[Path], str]) -> str:
    """One line for each wrong key. No value is quoted, since it may be a secret.

    Args:
        schema: what was validated.
        where: names the place of a key, such as its file and line.
    """
    root = schema.model_json_schema()
    lines: dict[Path, str] = {}
    for wrong in error.errors(include_url=False, include_input=False):
        path, node = _known(root, wrong["loc"])
        if path[-1:] == wrong["loc"][-1:] and len(path) < len(wrong["loc"]):
            lines.pop(path[:-1], None)  # in a union: what was meant is the table
        if wrong["type"] == "extra_forbidden":
            key = str(wrong["loc"][-1])
            lines.pop(path, None)  # in a union: what was meant is the table
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
    """` Did you mean …?`, or nothing if no name is near. `prefix`: what the name begins with, and `names` lack."""
    near = get_close_matches(name.removeprefix(prefix), names, n=1)
    return f" Did you mean {prefix + near[0]!r}?" if near else ""


def _unknown(root: _Schema, path: Path, key: str, node: _Schema) -> str:
    names = [name for one in _variants(root, node) for name in one.get("properties", ())]
    place = f" in [{_dotted(path)}]" if path else ""
    if _SECRET.fullmatch(key) and "api_key_env" in names:
        return f"{key!r}{place} is not allowed: {_SECRET_ADVICE}."
    kind = "section" if "defaults" in names else "key"
    return f"unknown {kind} {key!r}{place}.{did_you_mean(key, names)} Allowed: {', '.join(names)}."


def _known(root: _Schema, loc: Path) -> tuple[Path, _Schema]:
    """The parts of a location that the schema knows, and what stands there; the rest is pydantic's own."""
    if loc[-1:] == ("[key]",):
        loc = loc[:-2]  # of a table, the name is wrong that follows
    node, path = root, loc[:0]
    for part in loc:
        inner = next(_members(root, node, part), None)
        if inner is None:
            continue  # pydantic's own name for a part of a union
        node, path = inner, (*path, part)
    return path, node


def _members(root: _Schema, node: _Schema, part: str | int) -> Iterator[_Schema]:
    for one in _variants(root, node):
        if isinstance(part, int) and "items" in one:
            yield one["items"]
        elif part in one.get("properties", ()):
            yield one["properties"][part]
        elif isinstance(one.get("additionalProperties") or one.get("patternProperties"), dict):
            yield one.get("additionalProperties") or next(iter(one["patternProperties"].values()))


def _variants(root: _Schema, node: _Schema) -> Iterator[_Schema]:
    """What a place may be: references followed, unions taken apart."""
    if "$ref" in node:
        yield from _variants(root, root["$defs"][node["$ref"].rpartition("/")[2]])
    elif "anyOf" in node:
        for one in node["anyOf"]:
            yield from _variants(root, one)
    else:
        yield node


def _descriptions(root: _Schema, node: _Schema) -> list[str]:
    if "description" in node:
        return [node["description"]]
    kinds = ("a table" if one["type"] == "object" else one.get("description") for one in _variants(root, node))
    return list(dict.fromkeys(kind for kind in kinds if kind))


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))
