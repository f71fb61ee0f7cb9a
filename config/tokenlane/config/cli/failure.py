"""Reports why a command failed: a message on standard error, and with `--json` an object on standard output."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from tokenlane.config.cli.plain_text import json_text, running_text
from tokenlane.config.exit_codes import ClosedPipe, UserError

_STDOUT = 1
_UNWRITTEN = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF)


def as_user_error(error: BaseException) -> UserError | None:
    """Return the `UserError` that reports this error; None if the error is a bug in tokenlane."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    # typer and rich turn a closed pipe into a SystemExit.
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(cause, BrokenPipeError):
        return ClosedPipe()
    if isinstance(error, OSError) and error.errno in _UNWRITTEN and error.filename is None:
        return UserError(f"Standard output cannot be written: {error.strerror}.", {"code": "unwritten"})
    return error if isinstance(error, UserError) else None


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command's arguments contain the option `--json`."""
    return "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


def report(error: UserError, *, json: bool) -> None:
    """Print an error; nothing for `ClosedPipe`."""
    if isinstance(error, ClosedPipe):
        return
    if json:
        sys.stdout.write(json_text({"error": error.document()}) + "\n")
        sys.stdout.flush()
    sys.stderr.write(f"tokenlane: {running_text(str(error))}\n")


def discard_output(descriptor: int = _STDOUT) -> None:
    """Discard buffered and later output, so that the interpreter does not report at exit that it cannot write it."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, descriptor)
    os.close(devnull)
