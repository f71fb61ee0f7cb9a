"""Words the errors for wrong settings: where a setting comes from, which key is wrong, and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from .toml_lines import Path

COMPLETE = "complete"
"""The type of a pydantic error whose message follows the key without more words."""

_SECRET = re.compile(r"(.*_)?(api_?key|key|auth_?token|access_?token|token|password|secret|bearer)", re.IGNORECASE)
_SECRET_ADVICE = 'put the key in an environment variable, and name the variable here: api_key_env = "NAME"'

_Schema = dict[str, Any]


def explain(error: ValidationError, schema: type[BaseModel], where: Callable[[Path], str]) -> str:
    """Return one line for each wrong key.

    No line quotes a value, which may be a secret. Only the message of a validator may show a host and a port.

    Args:
        schema: the model that the settings should fit.
        where: returns the source of a key, such as its file and line.
    """
    root = schema.model_json_schema()
    lines: dict[Path, str] = {}
    for wrong in error.errors(include_url=False, include_input=False):
        path, node = _known(root, wrong["loc"])
        if path[-1:] == wrong["loc"][-1:] and len(path) < len(wrong["loc"]):
            lines.pop(path[:-1], None)  # the value is a table, so errors about the other type of the union are noise
        if wrong["type"] == "extra_forbidden":
            key = str(wrong["loc"][-1])
            lines.pop(path, None)  # as above
            path, text = (*path, key), _unknown(root, path, key, node)
        elif wrong["loc"][-1] == "[key]":
            path = wrong["loc"][:-1]
            text = f"[{_dotted(path)}]: the name must be {node['propertyNames']['description']}."
        elif wrong["type"] == COMPLETE:
            text = f"{_dotted(path)} {wrong['msg']}"
        else:
            text = f"{_dotted(path)} must be {' or '.join(_descriptions(root, node)) or wrong['msg']}."
        lines.setdefault(path, f"{where(path)}: {text}")
    return "\n".join(lines.values())


def did_you_mean(name: str, names: list[str], *, prefix: str = "") -> str:
    """Return ` Did you mean …?` with the most similar of `names`; empty if none is similar.

    Args:
        prefix: the start of `name` that `names` do not have. The suggestion includes it.
    """
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
    """Return the path of an error without pydantic's names for members of unions, and the schema at that path."""
    if loc[-1:] == ("[key]",):
        loc = loc[:-2]  # the error is about the name of a table, not about its content
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
    """Yield the schemas that a value may match: references are resolved, and unions split into their members."""
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
