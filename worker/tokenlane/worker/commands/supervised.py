"""For a process that another one started: it ends when that other one does, however that dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ends_with_input"]

_STDIN = 0


@contextmanager
def ends_with_input() -> Iterator[None]:
    """Send this process a SIGTERM when its standard input, a pipe from its supervisor, ends."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(_STDIN, 4096):
            loop.remove_reader(_STDIN)
            os.kill(os.getpid(), signal.SIGTERM)

    loop.add_reader(_STDIN, read)
    try:
        yield
    finally:
        loop.remove_reader(_STDIN)
