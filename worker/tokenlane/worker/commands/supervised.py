"""When a process is to stop because the one that started it ends, however that dies; and work that is given up then."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["broken_off", "when_input_ends"]

_STDIN = 0


@contextmanager
def when_input_ends(then: Callable[[], object]) -> Iterator[None]:
    """Call `then` when standard input, a pipe from whoever started this process, ends."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            more = os.read(_STDIN, 4096)
        except OSError:  # of a terminal that was closed
            more = b""
        if not more:
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
