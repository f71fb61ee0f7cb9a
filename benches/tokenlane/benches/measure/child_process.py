"""Child processes that do tasks for a measurement. Parent and child exchange lines of JSON over the child's pipes.

The child runs an async context manager that yields its tasks by name. Every child also has the task `cpu`. At the end
of a measurement the parent sends a goodbye. If the child's standard input ends without a goodbye, the measurement was
interrupted or the parent died, and the child exits within seconds. If a child exits early, the measurement fails.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TypeAlias, TypeVar

import uvloop
from pydantic import JsonValue, TypeAdapter

from tokenlane.config.exit_codes import FAILED, UserError
from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill
from tokenlane.routing.support.tasks import background

T = TypeVar("T")

Tasks: TypeAlias = Mapping[str, Callable[..., Awaitable[object]]]
Opening: TypeAlias = Callable[..., AbstractAsyncContextManager[Tasks]]

_LONGEST_LINE = 64 * 1024 * 1024
_GOODBYE = b"null\n"
_END_S = 20.0
_INTERRUPTED_S = 2.0
_DEATH_S = 0.5


@dataclass(frozen=True)
class ChildProcess:
    """A child process, for its parent. `child_process` starts it."""

    name: str
    process: Process

    async def ask(self, kind: type[T], task: str, **arguments: JsonValue) -> T:
        """Have the child do a task, and return the result.

        Args:
            kind: the type of the result.
            arguments: passed to the task.

        Raises:
            UserError: the child exited instead.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([task, arguments]).encode() + b"\n")
        line = await self.process.stdout.readline()
        if not line:
            raise _exited_early(self.name, await self.process.wait())
        return TypeAdapter(kind).validate_json(line)

    async def cpu_s(self) -> float:
        """Return the CPU seconds that the child has used so far."""
        return await self.ask(float, "cpu")


@asynccontextmanager
async def child_process(opening: Opening, **arguments: JsonValue) -> AsyncIterator[ChildProcess]:
    """Run an async context manager that yields tasks in a child process, as long as the block runs.

    Args:
        opening: a function of a module, which the child imports.
        arguments: passed to `opening`.

    Raises:
        UserError: the child exited before the end of the block, which was cancelled.
    """
    name = f"{opening.__module__}:{opening.__name__}"
    async with child_program(name, sys.executable, "-m", __name__, name, json.dumps(arguments)) as child:
        yield child


@asynccontextmanager
async def child_program(
    name: str, *command: str | Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[ChildProcess]:
    """Run a program that does tasks as a child process, as long as the block runs.

    Args:
        name: names the program in errors.
        environment: the environment of the program; None: that of this process.

    Raises:
        UserError: the child exited before the end of the block, which was cancelled.
    """
    process = await start_or_kill(
        asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            limit=_LONGEST_LINE,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent
        )
    )
    assert process.stdin is not None
    block = asyncio.timeout(None)

    async def cancel_block_on_exit() -> None:
        await process.wait()
        block.reschedule(0)

    try:
        async with block, meanwhile(cancel_block_on_exit()):
            yield ChildProcess(name, process)
        process.stdin.write(_GOODBYE)
    except TimeoutError:
        if not block.expired():
            raise
        raise _exited_early(name, await process.wait()) from None
    finally:
        process.stdin.close()
        await wait_or_kill(process, _END_S)


@asynccontextmanager
async def meanwhile(work: Coroutine[None, None, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run work in a task while the block runs. At the end of the block, the task is cancelled if necessary and awaited.

    An error of the task is raised to those who await the task, and does not cancel the block.
    """
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _exited_early(name: str, code: int) -> UserError:
    return UserError(
        f"The measurement failed: its process {name} exited early with code {code}. "
        "The process wrote the reason to standard error."
    )


async def _cpu() -> float:
    return time.process_time()


async def _serve(name: str, arguments: str) -> None:
    lines, orders = asyncio.StreamReader(), asyncio.Queue[bytes]()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    try:
        async with background() as tasks:
            working = tasks.create_task(_work(name, arguments, orders))
            async for line in lines:
                orders.put_nowait(line)
                if line == _GOODBYE:
                    await working
                    return
            # The measurement was interrupted: exit soon, and log nothing about processes that exited first.
            logging.disable()
            asyncio.get_running_loop().call_later(_INTERRUPTED_S, os._exit, FAILED)
    except Exception:
        await asyncio.sleep(_DEATH_S)
        if not lines.at_eof():  # after an interruption, this error is only that other processes exited first
            raise


async def _work(name: str, arguments: str, orders: asyncio.Queue[bytes]) -> None:
    module, _, function = name.partition(":")
    opening: Opening = getattr(import_module(module), function)
    async with opening(**json.loads(arguments)) as tasks:
        tasks = {"cpu": _cpu, **tasks}
        while (line := await orders.get()) != _GOODBYE:
            task, given = json.loads(line)
            os.write(sys.stdout.fileno(), json.dumps(await tasks[task](**given)).encode() + b"\n")


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
