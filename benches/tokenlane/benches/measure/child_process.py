"""Child processes that do tasks for a measurement, over JSON lines on standard input and output.

A process runs an async context manager that yields its tasks by name. Every process also has the task `cpu`. The parent
says goodbye at the end of a measurement. If standard input just ends, because the measurement broke off or the parent
died, the process ends whatever it does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
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
_BROKEN_OFF_S = 2.0
_DEATH_S = 0.5


@dataclass(frozen=True)
class ChildProcess:
    """A process as its parent sees it; `child_process` starts it."""

    name: str
    process: Process

    async def ask(self, kind: type[T], task: str, **arguments: JsonValue) -> T:
        """Have the process do a task, and return its result, which must be of this kind.

        Raises:
            UserError: the process ended; standard error has the reason.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([task, arguments]).encode() + b"\n")
        line = await self.process.stdout.readline()
        if not line:
            raise UserError(f"the benchmark's process {self.name} ended while it was asked for {task!r}")
        return TypeAdapter(kind).validate_json(line)

    async def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used."""
        return await self.ask(float, "cpu")


@asynccontextmanager
async def child_process(opening: Opening, **arguments: JsonValue) -> AsyncIterator[ChildProcess]:
    """Run a function of a module, which yields tasks, in a process that ends with the block."""
    name = f"{opening.__module__}:{opening.__name__}"
    process = await start_or_kill(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, name, json.dumps(arguments)),
            stdin=PIPE,
            stdout=PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # a terminal's Ctrl-C is for the parent
        )
    )
    assert process.stdin is not None
    try:
        yield ChildProcess(name, process)
        process.stdin.write(_GOODBYE)
    finally:
        process.stdin.close()
        await wait_or_kill(process, _END_S)


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
            # Broken off: end soon, and log nothing about the processes that ended first.
            logging.disable()
            asyncio.get_running_loop().call_later(_BROKEN_OFF_S, os._exit, FAILED)
    except Exception:
        await asyncio.sleep(_DEATH_S)
        if not lines.at_eof():  # if the measurement broke off, this failed because other processes ended first
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
