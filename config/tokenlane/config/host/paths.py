"""Where files are, and the errors of a path that cannot be resolved and of a variable that is set to nothing."""

from __future__ import annotations

import stat
from pathlib import Path

from tokenlane.config.exit_codes import ConfigError

DASH = Path("-")
"""What stands for standard input or output where a file is named. A file of that name is ./-."""


def absolute(path: Path, named_by: str) -> Path:
    """Return the path from the root.

    Args:
        named_by: what names it, such as an option.

    Raises:
        ConfigError: it begins at the current directory, which is not there any more.
    """
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigError(
            f"{named_by} {path}: the current directory cannot be found: {error.strerror or error}. "
            "Change to one that is there, or give the whole path."
        ) from error


def empty_variable(name: str) -> ConfigError:
    """The error of a variable that is set to nothing. Taken for one that is not set, it would lead to a default:
    another pool, or another model, than was meant."""
    return ConfigError(f"{name} is set and empty: give it a value, or unset it.")


def is_file(path: Path, or_else: str) -> bool:
    """Whether a file is there.

    Args:
        or_else: what to do where it cannot be looked for, but to open its directory.

    Raises:
        ConfigError: its directory cannot be looked into.
    """
    # Path.is_file takes some of these errors for a no, in some versions of Python all of them.
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        folder = path.parent if path.is_absolute() else "the current directory"
        raise ConfigError(
            f"{path.name} cannot be looked for in {folder}: {error.strerror or error}. "
            f"Let this user enter that directory, or {or_else}."
        ) from error
