"""The processes of a measurement: each does what it is asked, in JSON lines on its standard input and output.

What a process can do is an async context manager, named `module:function`, that yields its tasks by name. Every process
can also tell the CPU seconds it has used. A measurement that is over says goodbye; where standard input just ends, it
was broken off, if only because the parent died, and the process ends whatever it does.
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
from importlib import import_module
from typing import TypeAlias, TypeVar

from pydantic import JsonValue, TypeAdapter

from tokenlane.config.exit_codes import FAILED, UserError
from tokenlane.config.host.child_processes import start_or_kill, wait_or_kill
from tokenlane.routing.support.tasks import background

T = TypeVar("T")

Tasks: TypeAlias = Mapping[str, Callable[..., Awaitable[object]]]

_LONGEST_LINE = 64 * 1024 * 1024
_GOODBYE = b"null\n"
_END_S = 20.0
_BROKEN_OFF_S = 2.0
_DEATH_S = 0.5


class ChildProcess:
    """A process that was started, as its parent sees it. Get one with `child_process`."""

    def __init__(self, name: str, process: Process) -> None:
        self._name = name
        self._process = process

    async def ask(self, kind: type[T], task: str, **arguments: JsonValue) -> T:
        """Have the process do a task; its answer, which must be of that kind.

        Raises:
            UserError: the process has ended; it said on standard error why.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([task, arguments]).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise UserError(f"the benchmark's process {self._name} ended while it was asked for {task!r}")
        return TypeAdapter(kind).validate_json(line)

    async def cpu_s(self) -> float:
        """The CPU seconds the process has used."""
        return await self.ask(float, "cpu")


@asynccontextmanager
async def child_process(name: str, **arguments: JsonValue) -> AsyncIterator[ChildProcess]:
    """Start a process for the tasks `name`, `module:function`, and end it with the block."""
    process = await start_or_kill(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, name, json.dumps(arguments)),
            stdin=PIPE,
            stdout=PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # the terminal's Ctrl-C is for us
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
    lines, asked = asyncio.StreamReader(), asyncio.Queue[bytes]()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    try:
        async with background() as tasks:
            working = tasks.create_task(_work(name, arguments, asked))
            async for line in lines:
                asked.put_nowait(line)
                if line == _GOODBYE:
                    await working
                    return
            _hush()
    except Exception:
        if not await _ends(lines):
            raise


async def _work(name: str, arguments: str, asked: asyncio.Queue[bytes]) -> None:
    module, _, function = name.partition(":")
    opening: Callable[..., AbstractAsyncContextManager[Tasks]] = getattr(import_module(module), function)
    async with opening(**json.loads(arguments)) as own:
        tasks = {"cpu": _cpu, **own}
        while (line := await asked.get()) != _GOODBYE:
            task, given = json.loads(line)
            os.write(sys.stdout.fileno(), json.dumps(await tasks[task](**given)).encode() + b"\n")


def _hush() -> None:
    """The measurement was broken off: end soon, and without a word about what this process now misses."""
    logging.disable()
    asyncio.get_running_loop().call_later(_BROKEN_OFF_S, os._exit, FAILED)


async def _ends(lines: asyncio.StreamReader) -> bool:
    """Whether the measurement is broken off, and what failed here only missed what has ended already."""
    try:
        async with asyncio.timeout(_DEATH_S):
            await lines.read()
    except TimeoutError:
        return False
    return True


def _main() -> None:
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(_serve(*sys.argv[1:]))
    else:
        uvloop.run(_serve(*sys.argv[1:]))


if __name__ == "__main__":
    _main()
