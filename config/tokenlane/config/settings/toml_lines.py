"""The line of each key in a TOML text, which tomllib does not keep."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator

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
        if not statement:
            first = number
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = _heading(content)
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], first)
            if statement.lstrip().startswith("[["):
                arrays[table] += 1
                table = (*table, arrays[table] - 1)
                lines[table] = first
        else:
            for path, _ in leaves(content):
                for end in range(1, len(path) + 1):
                    lines.setdefault((*table, *path[:end]), first)
        statement = ""
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


def _heading(content: object) -> Path:
    path: Path = ()
    while isinstance(content, dict) and content:
        ((key, content),) = content.items()
        path = (*path, key)
    return path
