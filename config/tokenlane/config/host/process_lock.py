"""File locks that one process of this host holds at a time; a lock ends with its process, however that dies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path


def take_lock(path: Path) -> int | None:
    """Lock a file, made if it does not exist, without waiting.

    Returns:
        A descriptor, which holds the lock until it is closed; None if another process has the lock.
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
    """Lock a file once no other process has the lock; see `take_lock`."""
    while (lock := take_lock(path)) is None:  # noqa: ASYNC110 - another process sets no event
        await asyncio.sleep(poll_s)
    return lock
