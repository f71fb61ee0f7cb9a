"""The lines on which the keys of a TOML text stand; tomllib does not keep them."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator

Path = tuple[str | int, ...]


def lines_of(text: str) -> dict[Path, int]:
    """Return the line of every table and key, tables of an array numbered from 0.

    The text must be valid TOML. It is cut into statements by tomllib itself: a statement is the shortest run of lines
    that it accepts alone.
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
            table = _header(content)
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], first)
            if statement.lstrip().startswith("[["):
                arrays[table] += 1
                table = (*table, arrays[table] - 1)
                lines[table] = first
        else:
            for path in leaves(content):
                for end in range(1, len(path) + 1):
                    lines.setdefault((*table, *path[:end]), first)
        statement = ""
    return lines


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """Return the line of a key; of what it is in, if it is not known itself."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


def leaves(content: object, path: Path = ()) -> Iterator[Path]:
    """The paths of all values that are not tables with something in them."""
    if isinstance(content, dict) and (content or not path):
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def _header(content: object) -> Path:
    path: Path = ()
    while isinstance(content, dict) and content:
        ((key, content),) = content.items()
        path = (*path, key)
    return path
