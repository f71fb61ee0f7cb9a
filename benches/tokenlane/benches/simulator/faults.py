"""Reads faults from a file, and picks the fault of each request. docs/simulator.md lists the keys."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.settings.toml_lines import line_of, lines_of

from .fault_script import FaultScript

_LARGEST_BYTES = 1 << 20
_TABLE = "fault"


class Fault(FaultScript):
    """A fault script, and which requests it applies to."""

    request: int = Field(1, ge=1)
    """The first request that the fault applies to, counted from 1 among those that match `path` and `model`."""
    times: int = Field(1, ge=0)
    """How many requests the fault applies to; 0: all from `request` on."""
    path: str | None = None
    """The path of the requests, in which `*` matches any text; None: all paths for chats."""
    model: str | None = None
    """The model of the requests, in which `*` matches any text; None: all models."""

    def fits(self, path: str, model: str, *, chats: bool) -> bool:
        """Whether the fault matches this request."""
        path_fits = chats if self.path is None else fnmatchcase(path, self.path)
        return path_fits and (self.model is None or fnmatchcase(model, self.model))


class Faults:
    """A list of faults. It counts the requests that match each of them."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        self._met: Counter[int] = Counter()

    def next_fault(self, path: str, model: str, *, chats: bool) -> Fault | None:
        """Return the first fault that applies to this request, and count the request for all faults that match it."""
        due: Fault | None = None
        for place, fault in enumerate(self._faults):
            if not fault.fits(path, model, chats=chats):
                continue
            self._met[place] += 1
            past = self._met[place] - fault.request
            if due is None and past >= 0 and (not fault.times or past < fault.times):
                due = fault
        return due


def read_faults(file: Path) -> list[Fault]:
    """Read faults from a file: TOML with `[[fault]]` tables, or JSON with a list of objects.

    Raises:
        ConfigError: the file cannot be read or is malformed. The message names the line, the key and what is allowed.
    """
    try:
        text = read_file(file, _LARGEST_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8: a fault file is TOML or JSON in UTF-8.") from None
    return parse_faults(text, str(file), as_json=file.suffix == ".json")


def parse_faults(text: str, name: str, *, as_json: bool) -> list[Fault]:
    """Read faults from text.

    Args:
        name: the name of the source for error messages.

    Raises:
        ConfigError: the text is malformed.
    """
    entries = _from_json(text, name) if as_json else _from_toml(text, name)
    faults: list[Fault] = []
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ConfigError(f"{_at(name, text, place, None, as_json=as_json)}: a fault must be a table of keys.")
        try:
            faults.append(Fault.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            key = str(first["loc"][0]) if first["loc"] else ""
            where = _at(name, text, place, key, as_json=as_json)
            raise ConfigError(f"{where}: {_complaint(key, first['type'], first['msg'])}") from None
    return faults


def _from_toml(text: str, name: str) -> list[Any]:
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{name}: not TOML: {error}.") from None
    for key in content:
        if key != _TABLE:
            line = line_of(lines_of(text), (key,))
            raise ConfigError(f"{name}, line {line}: unknown key {key!r}. A fault file has only [[{_TABLE}]] tables.")
    entries = content.get(_TABLE, [])
    if not isinstance(entries, list):
        line = line_of(lines_of(text), (_TABLE,))
        raise ConfigError(
            f"{name}, line {line}: write [[{_TABLE}]] with two brackets, since there may be several faults."
        )
    return entries


def _from_json(text: str, name: str) -> list[Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}, line {error.lineno}: not JSON: {error.msg}.") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not JSON: {error}.") from None
    if not isinstance(content, list):
        raise ConfigError(f"{name}, line 1: a fault file in JSON must be a list of objects.")
    return content


def _complaint(key: str, kind: str, message: str) -> str:
    if kind != "extra_forbidden":
        return f"{key}: {message[:1].lower()}{message[1:]}."
    close = difflib.get_close_matches(key, Fault.model_fields, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown key {key!r}.{meant} Allowed: {', '.join(sorted(Fault.model_fields))}."


def _at(name: str, text: str, place: int, key: str | None, *, as_json: bool) -> str:
    path = (_TABLE, place) if key is None else (_TABLE, place, key)
    line = _json_line(text, place, key) if as_json else line_of(lines_of(text), path)
    return name if line is None else f"{name}, line {line}"


def _json_line(text: str, place: int, key: str | None) -> int:
    """Return the line number of an element of the list, or of a key in that element. The text must be valid JSON."""
    decoder = json.JSONDecoder()
    start = end = text.index("[") + 1
    for _ in range(place + 1):
        start = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n,"))
        _, end = decoder.raw_decode(text, start)
    if key is not None and (match := re.search(re.escape(json.dumps(key)) + r"\s*:", text[start:end])):
        start += match.start()
    return text.count("\n", 0, start) + 1
