"""How a command ends: its exit codes, and the errors that end it with one message for the person who ran it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

OK = 0
FAILED = 1
USAGE = 2  # wrong arguments or configuration: trying again as it stands cannot help
NOTHING_FOUND = 3  # `probe` found no model server that can chat
CANCELLED = 130  # Ctrl-C
CLOSED_PIPE = 141  # whoever read standard output has gone: 128 + SIGPIPE, as shells say it


class UserError(Exception):
    """Ends a command. The message says what happened, where, and what to do next; it is all that is printed.

    Args:
        facts: what `--json` writes of it in place of the defaults, the fields of an `ErrorReport`.
    """

    exit_code: ClassVar[int] = FAILED
    code: ClassVar[str] = "failed"

    def __init__(self, message: str = "", facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self._facts = facts or {}

    def document(self) -> dict[str, object]:
        """What `--json` writes of it."""
        return {
            "code": self.code,
            "message": str(self),
            "retryable": False,
            "retry_after_s": None,
            "provider": None,
            "lane": None,
            "model": None,
            **self._facts,
        }


class ConfigError(UserError):
    """Something is set wrongly, or something needed is not set."""

    exit_code: ClassVar[int] = USAGE
    code: ClassVar[str] = "usage"


class ClosedPipe(UserError):
    """Nobody reads standard output any more. Nothing is printed of it."""

    exit_code: ClassVar[int] = CLOSED_PIPE
    code: ClassVar[str] = "closed_pipe"
