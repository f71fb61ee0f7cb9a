"""Reads one layer of settings from a file, variables or options, and validates it, so that errors name its source."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path as File
from typing import Any

from pydantic import ValidationError

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import read_file, standard_input
from tokenlane.config.host.paths import DASH

from .merged import Layer, Setting
from .schema import TEXTS, ProcessLaneSection, document_type
from .toml_lines import Path, leaves, line_of, lines_of, nested
from .validation_messages import explain


def file_layer(file: File) -> Layer:
    """Read an llm.toml; `-` is standard input. The source of each value is FILE:LINE.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or has unknown keys or wrong values.
    """
    name = "standard input" if file == DASH else str(file)
    try:
        content = standard_input() if file == DASH else read_file(file)
        text = content.decode("utf-8-sig")  # some editors write a byte order mark
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not UTF-8: convert it to UTF-8.") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # Before Python 3.14 the position is only in the message.
        message, _, position = str(error).rpartition(" (at ")
        line = position.removeprefix("line ").partition(",")[0]
        last = text.count("\n") + 1
        raise ConfigError(f"{name}:{line if line.isdigit() else last}: this is not TOML: {message}.") from None
    lines = lines_of(text)

    def where(path: Path) -> str:
        line = line_of(lines, path)
        return f"{name}:{line}" if line else name

    return _checked(tables, where, strict=True)


def text_layer(texts: Iterable[tuple[Path, str]], where: Callable[[Path], str]) -> Layer:
    """Make a layer from texts, such as the values of environment variables.

    Args:
        texts: paths of keys, and their values as texts.
        where: returns the source of a path, such as the variable's name.

    Raises:
        ConfigError: a path does not exist, or its value is wrong.
    """
    try:
        return _checked(nested(texts), where)
    except KeyError as error:
        *path, _ = error.args[0]
        raise ConfigError(
            f"{where(error.args[0])}: {'.'.join(path)} is set to a value elsewhere, so it has no keys."
        ) from None


def lane_layer(given: Mapping[str, Setting]) -> dict[str, Setting]:
    """Validate settings of this process's lane that do not come from a section. `model` is another name for `models`.

    Raises:
        ConfigError: a key does not exist, or its value is wrong.
    """
    given = {"models" if key == "model" else key: setting for key, setting in given.items()}
    try:
        lane = ProcessLaneSection.model_validate({key: setting.value for key, setting in given.items()}, context=TEXTS)
    except ValidationError as error:
        raise ConfigError(explain(error, ProcessLaneSection, lambda path: given[str(path[0])].source)) from None
    return {key: Setting(value, given[key].source) for key, value in lane.model_dump(exclude_unset=True).items()}


def _checked(content: dict[str, Any], where: Callable[[Path], str], *, strict: bool = False) -> Layer:
    try:
        document = document_type().model_validate(content, strict=strict, context=None if strict else TEXTS)
    except ValidationError as error:
        raise ConfigError(explain(error, document_type(), where)) from None
    dumped = document.model_dump(exclude_unset=True)
    return {path: Setting(value, where(path)) for path, value in leaves(dumped) if path}
