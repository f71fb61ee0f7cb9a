"""The exit codes of commands, and the errors that end a command with a message instead of a traceback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

OK = 0
FAILED = 1
USAGE = 2  # wrong arguments or settings: running the same command again cannot succeed
NOTHING_FOUND = 3  # `probe` found no model server that can chat
CANCELLED = 130  # Ctrl-C
CLOSED_PIPE = 141  # nobody reads standard output any more; 128 + SIGPIPE, as in shells


class UserError(Exception):
    """An error that ends a command. The command prints the message: what happened, where, and what to do next.

    Args:
        facts: fields of the `--json` document to change from their defaults; `ErrorReport` describes the fields.
    """

    exit_code: ClassVar[int] = FAILED
    code: ClassVar[str] = "failed"

    def __init__(self, message: str = "", facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self._facts = facts or {}

    def document(self) -> dict[str, object]:
        """Return the error as `--json` prints it."""
        return {
            "code": self.code,
            "message": str(self),
            "retryable": False,
            "retry_after_s": None,
            "provider": None,
            "lane": None,
            "model": None,
            "request_id": None,
            **self._facts,
        }


class ConfigError(UserError):
    """A setting is wrong, or a needed setting is missing."""

    exit_code: ClassVar[int] = USAGE
    code: ClassVar[str] = "usage"


class ClosedPipe(UserError):
    """Nobody reads standard output any more. The command prints nothing and exits."""

    exit_code: ClassVar[int] = CLOSED_PIPE
    code: ClassVar[str] = "closed_pipe"
