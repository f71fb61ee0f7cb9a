"""Locks on files, held by one process of this host and gone with it, however it dies."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path


def take_lock(path: Path) -> int | None:
    """Lock a file, which is made if need be, and do not wait.

    Returns:
        A descriptor, which holds the lock until it is closed; None if another process has the lock.
    """
    import fcntl  # not on Windows, where nothing that is locked so can be started

    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return lock


async def await_lock(path: Path, poll_s: float) -> int:
    """Lock a file as `take_lock` does, once no other process has the lock."""
    while (lock := take_lock(path)) is None:  # noqa: ASYNC110 - what another process does rings no event
        await asyncio.sleep(poll_s)
    return lock
