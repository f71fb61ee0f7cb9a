"""When a process is to stop: it is told to, or the one that started it ends, however that dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

__all__ = ["broken_off", "told_to_stop", "when_input_ends"]

_STDIN = 0


@contextmanager
def told_to_stop() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # Windows: Ctrl-C cancels
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, stopping.set)
    try:
        yield stopping
    finally:
        with suppress(NotImplementedError):
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(name)


@contextmanager
def when_input_ends(then: Callable[[], object]) -> Iterator[None]:
    """Call `then` when standard input, a pipe from whoever started this process, ends."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(_STDIN, 4096):
            loop.remove_reader(_STDIN)
            then()

    loop.add_reader(_STDIN, read)
    try:
        yield
    finally:
        loop.remove_reader(_STDIN)


@asynccontextmanager
async def broken_off(stopping: asyncio.Event) -> AsyncIterator[None]:
    """Cancel what the block awaits when the event is set; the block then ends early, without an error."""

    limit = asyncio.timeout(None)

    async def watch() -> None:
        await stopping.wait()
        limit.reschedule(0)

    try:
        async with limit:
            watching = asyncio.create_task(watch())
            try:
                yield
            finally:
                watching.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
