"""How a command that failed says so: a line for people on standard error, and with `--json` an object before it on
standard output."""

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
    """The error as one for whoever ran the command; None if it is a fault of ours."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    # typer and rich end the process where a pipe is closed.
    cause = error.__context__ if isinstance(error, SystemExit) else error
    if isinstance(cause, BrokenPipeError):
        return ClosedPipe()
    if isinstance(error, OSError) and error.errno in _UNWRITTEN and error.filename is None:
        return UserError(f"Standard output cannot be written: {error.strerror}.", {"code": "unwritten"})
    return error if isinstance(error, UserError) else None


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command's arguments ask for JSON."""
    return "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


def say(failure: UserError, *, json: bool) -> None:
    """Say what happened; of a pipe that nobody reads, nothing."""
    if isinstance(failure, ClosedPipe):
        return
    if json:
        sys.stdout.write(json_text({"error": failure.document()}) + "\n")
        sys.stdout.flush()
    sys.stderr.write(f"tokenlane: {running_text(str(failure))}\n")


def discard_output(descriptor: int = _STDOUT) -> None:
    """Have what is buffered, and whatever is written later, go nowhere: the interpreter would complain of it at its
    end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
