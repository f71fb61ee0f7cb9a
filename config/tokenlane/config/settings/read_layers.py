"""Makes a layer of settings from a file or from texts, each checked by itself, so that an error has one place."""

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
from .schema import TEXTS, Lane, document_type, not_a_provider
from .toml_lines import Path, leaves, line_of, lines_of
from .validation_messages import explained
from .values import NAME_RULE, is_name


def file_layer(file: File) -> Layer:
    """What a file says, or standard input; a source is FILE:LINE.

    Raises:
        ConfigError: it cannot be read, is no TOML, or has unknown keys or wrong values.
    """
    name = "standard input" if file == DASH else str(file)
    try:
        content = standard_input() if file == DASH else read_file(file)
        text = content.decode("utf-8-sig")  # as some editors begin a file
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not UTF-8: convert it first.") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_not_toml(name, text, error)) from None
    lines = lines_of(text)

    def where(path: Path) -> str:
        line = line_of(lines, path)
        return f"{name}:{line}" if line else name

    return _checked(tables, where, strict=True)


def text_layer(texts: Iterable[tuple[tuple[str, ...], str]], where: Callable[[Path], str]) -> Layer:
    """What texts say of paths, such as those of the environment.

    Raises:
        ConfigError: a path is not known, or its value wrong.
    """
    content: dict[str, Any] = {}
    for path, text in texts:
        *tables, key = path
        table: Any = content
        for name in tables:
            table = table.setdefault(name, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table[key] = text
        else:
            raise ConfigError(f"{where(path)}: {'.'.join(tables)} is set as a whole already.")
    return _checked(content, where)


def lane_layer(texts: Mapping[str, Setting]) -> dict[str, Setting]:
    """What is said of one lane without its section: `name`, and the keys of a lane, `model` for `models`.

    Whether there is such a provider is not looked at: who serves no lane may name one that other hosts have.

    Raises:
        ConfigError: a key is not known, or its value wrong.
    """
    texts = {"models" if key == "model" else key: setting for key, setting in texts.items()}
    taken = {key: setting for key, setting in texts.items() if key in ("name", "provider")}
    for key, setting in taken.items():
        if key == "name" and not is_name(str(setting.value)):
            raise ConfigError(f"{setting.source}: the lane's name: {NAME_RULE}.")
        if key == "provider" and not setting.value:
            raise ConfigError(f"{setting.source}: provider {not_a_provider(setting.value)}")
    try:
        lane = Lane.model_validate(
            {key: setting.value for key, setting in texts.items() if key not in taken}, context=TEXTS
        )
    except ValidationError as error:
        raise ConfigError(explained(error, Lane, lambda path: texts[str(path[0])].source)) from None
    checked = {key: Setting(value, texts[key].source) for key, value in lane.model_dump(exclude_unset=True).items()}
    return checked | taken


def _checked(content: dict[str, Any], where: Callable[[Path], str], *, strict: bool = False) -> Layer:
    try:
        document = document_type().model_validate(content, strict=strict, context=None if strict else TEXTS)
    except ValidationError as error:
        raise ConfigError(explained(error, document_type(), where)) from None
    dumped = document.model_dump(exclude_unset=True)
    return {path: Setting(_at(dumped, path), where(path)) for path in leaves(dumped) if path}


def _at(content: Any, path: Path) -> Any:
    for part in path:
        content = content[part]
    return content


def _not_toml(name: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    # tomllib has the position only in its message before Python 3.14.
    message, _, place = str(error).rpartition(" (at ")
    line = place.removeprefix("line ").partition(",")[0]
    return f"{name}:{line if line.isdigit() else text.count(chr(10)) + 1}: not TOML: {message}."
