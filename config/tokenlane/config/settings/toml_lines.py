"""Finds the line of each key in a TOML text, which tomllib does not report."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

Path = tuple[str | int, ...]


def lines_of(text: str) -> dict[Path, int]:
    """Return the line of every table and key; tables of an array are numbered from 0.

    The text must be valid TOML. tomllib itself cuts it into statements: the shortest runs of lines that it accepts.
    """
    lines: dict[Path, int] = {}
    arrays: Counter[Path] = Counter()
    table: Path = ()
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        heading = statement.lstrip().startswith("[")
        for path, value in leaves(content):
            path = path if heading else (*table, *path)
            for end in range(1, len(path) + 1):
                lines.setdefault(path[:end], first)
            if heading:
                table = path
                if value != {}:  # [[path]]: a table of an array
                    table = (*path, arrays[path])
                    arrays[path] += 1
                    lines[table] = first
        statement, first = "", number + 1
    return lines


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """Return the line of a key, or else of the innermost table around it."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


def leaves(content: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Return all values and empty tables, each with its path."""
    if isinstance(content, dict) and (content or not path):
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, content


def nested(values: Iterable[tuple[Path, object]]) -> dict[str, Any]:
    """Return the tables that hold these values at their paths, the reverse of `leaves`.

    Raises:
        KeyError: a path leads through another value.
    """
    content: dict[str, Any] = {}
    for path, value in values:
        *tables, key = map(str, path)
        table: Any = content
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise KeyError(path)
        table[key] = {**table.get(key, {})} if value == {} else value
    return content
