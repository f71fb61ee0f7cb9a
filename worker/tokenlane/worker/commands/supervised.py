"""When a process is to stop because the one that started it ends, however that dies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["when_input_ends"]

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
