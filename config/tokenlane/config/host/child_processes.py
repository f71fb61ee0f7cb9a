"""Child processes that do not outlive this one, however it dies; nor do theirs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

# The shell becomes the command. What it leaves behind waits for the end of its input, which comes when this process
# dies, SIGKILL included; then it tells the command's whole group to end, and removes a directory, if one was given
# ($1). A command that just dies may still finish making a file there, and one may not obey: so it is killed, and the
# directory removed until both are gone. Where nobody reaps the dead, as in some containers, it always looks alive:
# three seconds do.
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
    """A command that ends when this process does. `process` is the command's; made by `spawn`."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int) -> None:
        self.process = process
        self._lifeline: int | None = lifeline  # our end of the pipe whose closing ends the command

    async def end(self, within_s: float) -> None:
        """Terminate the command, kill it if that takes longer, or this is cancelled; may be called again."""
        try:
            if self.process.returncode is None:
                _send(self.process, signal.SIGTERM)
                async with asyncio.timeout(within_s):
                    await self.process.wait()
        except TimeoutError:
            pass
        finally:
            if self._lifeline is not None:
                # The one that waits for our end, and the command if it did not obey or we were cancelled. The pipe is
                # still open, so that one is there and the group's number cannot have gone to others.
                try:
                    os.killpg(self.process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):  # macOS refuses where only zombies are left
                    pass
                os.close(self._lifeline)
                self._lifeline = None
            await self.process.wait()


async def spawn(
    *command: str | Path,
    directory: Path | None = None,
    leaves: Path | None = None,
    output: int | IO[bytes],
    errors: int | IO[bytes],
    environment: dict[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a command in a session of its own, so that a terminal's Ctrl-C is ours alone, and without input.

    Args:
        directory: it starts there, else where we are.
        leaves: a directory to be removed with it, should this process die.
    """
    theirs, ours = os.pipe()
    try:
        process = await started(
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


async def started(starting: Coroutine[Any, Any, asyncio.subprocess.Process]) -> asyncio.subprocess.Process:
    """A process that is being started, as `asyncio.create_subprocess_exec` does; killed should this be cancelled.

    When that is cancelled itself, and the process has just died of the same Ctrl-C, it warns on standard error.
    """
    task = asyncio.create_task(starting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(OSError):  # there is no such command
            await ended(await task, 0)
        raise


async def ended(process: asyncio.subprocess.Process, within_s: float) -> None:
    """Wait for the end of a process that was told to; kill it if that takes longer, or this is cancelled."""
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
    # asyncio's own `kill` and `terminate` look first whether the process has ended; when it just has, that takes its
    # exit code away from whoever waits for it.
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
