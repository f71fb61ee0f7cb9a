"""Waits that take too long end, and nothing else does."""

from __future__ import annotations

import asyncio

import pytest

from tokenlane.worker.providers.http.wait_timeout import WaitTimeout


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_an_overdue_wait_ends() -> None:
    """A wait that is overdue raises TimeoutError and leaves its task as it was."""
    task = asyncio.current_task()
    assert task is not None
    with WaitTimeout() as timeout:
        with pytest.raises(TimeoutError):
            await timeout.wait(asyncio.Event().wait(), now() + 0.01)
        assert task.cancelling() == 0
        assert await timeout.wait(asyncio.sleep(0, "next"), now() + 10) == "next"
        with pytest.raises(TimeoutError):
            await timeout.wait(asyncio.Event().wait(), now() + 0.01)


async def test_a_later_limit_counts_anew() -> None:
    """The timer of an earlier, shorter wait does not end a longer one."""
    event = asyncio.Event()
    with WaitTimeout() as timeout:
        await timeout.wait(asyncio.sleep(0), now() + 0.01)
        asyncio.get_running_loop().call_later(0.05, event.set)
        assert await timeout.wait(event.wait(), now() + 10)


async def test_time_between_waits_does_not_count() -> None:
    """While nobody waits for the model server, the time is not its own."""
    with WaitTimeout() as timeout:
        await timeout.wait(asyncio.sleep(0), now() + 0.01)
        await asyncio.sleep(0.05)
        assert await timeout.wait(asyncio.sleep(0, "here"), now() + 10) == "here"


async def test_a_cancelled_wait_is_cancelled() -> None:
    """A task's own cancellation stays one."""
    started = asyncio.Event()

    async def waiting() -> None:
        with WaitTimeout() as timeout:
            started.set()
            await timeout.wait(asyncio.Event().wait(), now() + 60)

    task = asyncio.create_task(waiting())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
