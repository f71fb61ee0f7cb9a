"""Child processes that end with this process, however it dies, and take their own children with them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# The shell becomes the command. A background copy of it waits for the end of its input, which comes when this process
# dies, SIGKILL included. It then terminates the command's process group, and removes a directory if one was given ($1).
# A terminated command may still be writing a file there, or may not obey: so it is killed, and the directory removed
# until both are gone. In some containers nobody reaps dead processes, which then look alive: three seconds are enough.
_WITH_US = """\
left=$1; shift
exec 3<&0 </dev/null
{
    read -r _ <&3
    trap '' TERM
    kill -TERM -$$
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
    """A command that ends when this process does; `spawn` makes it."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self.process = process
        self._lifeline: int | None = lifeline  # this process's end of the pipe; closing it ends the command

    async def end(self, within_s: float) -> None:
        """Terminate the command; kill it if that takes longer, or if this is cancelled. May be called again."""
        try:
            if self.process.returncode is None:
                _send(self.process, signal.SIGTERM)
                await wait_or_kill(self.process, within_s)
        finally:
            if self._lifeline is not None:
                # Kills the waiting shell, and what the command left. The pipe is still open, so the shell is alive, and
                # its group's number cannot belong to other processes.
                with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only zombies are left
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
    """Start a command without input, and in a new session, so that a terminal's Ctrl-C does not reach it.

    Args:
        directory: its current directory, else this process's.
        leaves: a directory to remove with it, should this process die.
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
    """Await `asyncio.create_subprocess_exec`; if this is cancelled, kill the new process.

    asyncio would warn on standard error if the process had just died of the same Ctrl-C.
    """
    task = asyncio.create_task(starting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(OSError):  # there is no such command
            await wait_or_kill(await task, 0)
        raise


async def wait_or_kill(process: asyncio.subprocess.Process, within_s: float) -> None:
    """Wait for the end of a process that was asked to end; kill it if that takes longer, or if this is cancelled."""
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
    # asyncio's `kill` and `terminate` poll the process first, which takes the exit code away from a waiting task.
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
