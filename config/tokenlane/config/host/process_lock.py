"""File locks that one process of this host holds at a time. The death of a process releases its locks."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path


def take_lock(path: Path) -> int | None:
    """Lock a file without waiting. The file is created if it does not exist.

    Returns:
        A file descriptor that holds the lock until it is closed; None if another process holds the lock.
    """
    import fcntl  # missing on Windows, where neither `up` nor the built-in model runs

    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return lock


async def await_lock(path: Path, poll_s: float) -> int:
    """Wait until no other process holds the lock of a file, and lock it; see `take_lock`."""
    while (lock := take_lock(path)) is None:  # noqa: ASYNC110 - another process cannot set an event
        await asyncio.sleep(poll_s)
    return lock
