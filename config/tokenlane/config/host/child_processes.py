"""Child processes that end when this process ends, even by SIGKILL, together with their own children."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# The shell starts a background copy of itself, and then becomes the command. The copy waits for the end of its input,
# which comes when this process dies, even by SIGKILL. It then terminates the command's process group, and continues
# it, since a frozen process ends by no signal but SIGKILL. It removes the directory $1, if there is one. A terminated
# command may ignore the signal, or still write files to the directory, so the copy kills the command and removes the
# directory until both are gone. It gives up after three seconds, since dead processes that nobody reaps, as in some
# containers, look alive.
_WITH_US = """\
left=$1; shift
exec 3<&0 </dev/null
{
    read -r _ <&3
    trap '' TERM
    kill -TERM -$$
    kill -CONT -$$
    test -n "$left" || exit
    tries=0
    while { kill -9 $$ || test -e "$left"; } && test $tries -lt 60; do
        rm -rf -- "$left"
        tries=$((tries + 1))
        sleep 0.05
    done
} >/dev/null 2>&1 &
exec "$@" 3<&-
"""


class Child:
    """A command that ends when this process ends. `spawn` starts it."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self.process = process
        self._lifeline: int | None = lifeline  # this process's end of the pipe; closing it ends the command

    async def end(self, within_s: float) -> None:
        """Terminate the command. Kill it if it runs for longer than `within_s`, or if this is cancelled.

        Further calls do nothing.
        """
        try:
            if self.process.returncode is None:
                _send(self.process, signal.SIGTERM)
                _send(self.process, signal.SIGCONT)  # it may be frozen
                await wait_or_kill(self.process, within_s)
        finally:
            if self._lifeline is not None:
                # Kills the waiting shell and children that the command left. The pipe is still open, so the shell is
                # alive, and the id of its process group cannot belong to other processes.
                with suppress(ProcessLookupError, PermissionError):  # macOS refuses if only zombies are left
                    os.killpg(self.process.pid, signal.SIGKILL)
                os.close(self._lifeline)
                self._lifeline = None


async def spawn(
    *command: str | Path,
    directory: Path | None = None,
    leaves: Path | None = None,
    output: int | IO[bytes],
    errors: int | IO[bytes],
    environment: dict[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a command without input and in a new session, so that the terminal's Ctrl-C does not reach it.

    Args:
        directory: the current directory of the command; None: that of this process.
        leaves: a directory to remove if this process dies.
        output: where standard output goes, as for `subprocess`.
        errors: where standard error goes, as for `subprocess`.
        environment: the environment of the command; None: that of this process.
        pass_fds: file descriptors that the command keeps open.
    """
    theirs, ours = os.pipe()
    try:
        process = await start_or_kill(
            asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", _WITH_US, "sh", leaves or "", *command),
                stdin=theirs,
                stdout=output,
                stderr=errors,
                cwd=directory,
                env=environment,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Child(process, ours)


async def start_or_kill(starting: Coroutine[Any, Any, asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    """Await `asyncio.create_subprocess_exec`, and kill the new process if this is cancelled.

    Without the shield, asyncio would print a warning if the same Ctrl-C had already ended the process.
    """
    task = asyncio.create_task(starting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(OSError):  # the command does not exist
            await wait_or_kill(await task, 0)
        raise


async def wait_or_kill(process: asyncio.subprocess.Process, within_s: float) -> None:
    """Wait up to `within_s` for a process to end. Kill it if it takes longer, or if this is cancelled."""
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            _send(process, signal.SIGKILL)
            await process.wait()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # asyncio's `kill` and `terminate` would poll the process first, and a waiting task would never get the exit code.
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
