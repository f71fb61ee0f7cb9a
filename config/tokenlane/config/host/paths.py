"""Checks paths from options and variables, and creates the errors about wrong paths and empty variables."""

from __future__ import annotations

import stat
from pathlib import Path

from tokenlane.config.exit_codes import ConfigError

DASH = Path("-")
"""Stands for standard input or output in place of a file. A file with this name is `./-`."""


def absolute(path: Path, named_by: str) -> Path:
    """Return the absolute path.

    Args:
        named_by: the option or variable that names the path.

    Raises:
        ConfigError: the path is relative, and the current directory was deleted.
    """
    try:
        return path.absolute()
    except OSError as error:
        raise ConfigError(
            f"{named_by} {path}: the current directory does not exist any more: {error.strerror or error}. "
            "Change to an existing directory, or give an absolute path."
        ) from error


def empty_variable(name: str) -> ConfigError:
    """Return the error for an environment variable that is set but empty.

    If it were ignored, the default would apply, which may be another pool or model than the user meant.
    """
    return ConfigError(f"The variable {name} is set but empty: give it a value, or unset it.")


def is_file(path: Path, or_else: str) -> bool:
    """Whether a file exists.

    Args:
        or_else: what the user can do instead of getting access to the directory, for the error.

    Raises:
        ConfigError: this user may not access the directory.
    """
    # Path.is_file would return False for some of these errors, depending on the version of Python.
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        folder = path.parent if path.is_absolute() else "the current directory"
        raise ConfigError(
            f"tokenlane cannot look for {path.name} in {folder}: {error.strerror or error}. "
            f"Give this user access to the directory, or {or_else}."
        ) from error
