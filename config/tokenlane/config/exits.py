"""How a command ends: its exit codes, and the errors that end it with one message for the person who ran it."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["CANCELLED", "FAILED", "NOTHING_FOUND", "OK", "USAGE", "ConfigError", "UserError"]

OK = 0
FAILED = 1
USAGE = 2  # wrong arguments or configuration: trying again as it stands cannot help
NOTHING_FOUND = 3  # `probe` found no model server that can chat
CANCELLED = 130  # Ctrl-C


class UserError(Exception):
    """Ends a command. The message says what happened, where, and what to do next; it is all that is printed."""

    exit_code: ClassVar[int] = FAILED


class ConfigError(UserError):
    """Something is set wrongly, or something needed is not set."""

    exit_code: ClassVar[int] = USAGE
