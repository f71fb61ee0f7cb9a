"""Finds the line number of each key in a TOML document, which tomllib does not report."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

Path = tuple[str | int, ...]


def lines_of(text: str) -> dict[Path, int]:
    """Return the line number of every table and key. In paths, the tables of an array are numbered from 0.

    The text must be valid TOML. A statement is the shortest run of lines that tomllib can parse.
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
    """Return the line number of a key, else that of the innermost table around it; None if there is no such table."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


def leaves(content: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Yield all values and empty tables, each with its path."""
    if isinstance(content, dict) and (content or not path):
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, content


def nested(values: Iterable[tuple[Path, object]]) -> dict[str, Any]:
    """Return nested tables with these values at their paths. This is the reverse of `leaves`.

    Raises:
        KeyError: a path leads through a value that is not a table.
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
