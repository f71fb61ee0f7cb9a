"""Checks paths that a user gives, and makes the errors that name a wrong path or an empty variable."""

from __future__ import annotations

import stat
from pathlib import Path

from tokenlane.config.exit_codes import ConfigError

DASH = Path("-")
"""In place of a file: standard input or output. A file of that name is ./-."""


def absolute(path: Path, named_by: str) -> Path:
    """Return the path from the root.

    Args:
        named_by: the option or variable that names the path.

    Raises:
        ConfigError: the path is relative, and the current directory was deleted.
    """
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigError(
            f"{named_by} {path}: the current directory cannot be found: {error.strerror or error}. "
            "Change to one that exists, or give the whole path."
        ) from error


def empty_variable(name: str) -> ConfigError:
    """Return the error of a variable that is set but empty. Treated as not set, it would lead to the default: another
    pool, or another model, than was meant."""
    return ConfigError(f"{name} is set and empty: give it a value, or unset it.")


def is_file(path: Path, or_else: str) -> bool:
    """Whether a file exists.

    Args:
        or_else: the advice where its directory is closed to this user, besides opening it.

    Raises:
        ConfigError: its directory is closed to this user.
    """
    # Path.is_file returns False for some of these errors, in some versions of Python for all.
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
