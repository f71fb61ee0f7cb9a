"""The exit codes of commands, and the errors that end a command with one message for the person who ran it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

OK = 0
FAILED = 1
USAGE = 2  # wrong arguments or settings: the same command cannot succeed
NOTHING_FOUND = 3  # `probe` found no model server that can chat
CANCELLED = 130  # Ctrl-C
CLOSED_PIPE = 141  # the reader of standard output went away: 128 + SIGPIPE, as in shells


class UserError(Exception):
    """Ends a command and prints its message: what happened, where, and what to do next.

    Args:
        facts: fields of the `--json` document that differ from the defaults; see `ErrorReport`.
    """

    exit_code: ClassVar[int] = FAILED
    code: ClassVar[str] = "failed"

    def __init__(self, message: str = "", facts: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self._facts = facts or {}

    def document(self) -> dict[str, object]:
        """Return what `--json` prints."""
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
    """Nobody reads standard output any more. Nothing is printed."""

    exit_code: ClassVar[int] = CLOSED_PIPE
    code: ClassVar[str] = "closed_pipe"
