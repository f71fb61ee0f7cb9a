from __future__ import annotations

import asyncio
import time

import pytest

from tokenlane.routing.store.server.command_limits import PrioritySemaphore, StepwiseTimeout, Urgency


async def acquired_by(semaphore: PrioritySemaphore, *urgencies: Urgency) -> tuple[list[int], list[asyncio.Task[None]]]:
    """Let one task for each urgency wait; the numbers of the tasks in the order in which they acquire the semaphore."""
    came: list[int] = []

    async def wait(number: int, urgency: Urgency) -> None:
        await semaphore.acquire(urgency)
        came.append(number)

    tasks = [asyncio.create_task(wait(number, urgency)) for number, urgency in enumerate(urgencies)]
    await asyncio.sleep(0)
    return came, tasks


async def test_beats_go_first_and_new_work_last() -> None:
    """Among equals who came first goes first; never more than are allowed at once."""
    semaphore = PrioritySemaphore(2)
    await semaphore.acquire()
    await semaphore.acquire()
    waiting = [Urgency.NEW_WORK, Urgency.USUAL, Urgency.BEAT, Urgency.NEW_WORK, Urgency.USUAL, Urgency.BEAT]
    came, _ = await acquired_by(semaphore, *waiting)
    assert came == []
    for number, expected in enumerate([2, 5, 1, 4, 0, 3], 1):
        semaphore.release()
        await asyncio.sleep(0)
        assert (len(came), came[-1]) == (number, expected)


@pytest.mark.parametrize("had", [True, False])
async def test_a_cancelled_waiter_passes_the_semaphore_on(had: bool) -> None:
    """Whether or not it had just acquired the semaphore."""
    semaphore = PrioritySemaphore(1)
    await semaphore.acquire()
    came, (first, second) = await acquired_by(semaphore, Urgency.USUAL, Urgency.USUAL)
    if had:
        semaphore.release()
    first.cancel()
    if not had:
        semaphore.release()
    await asyncio.wait({first, second})
    assert first.cancelled()
    assert came == [1]


async def test_earlier_waiters_fail_and_later_ones_wait_on() -> None:
    """Tasks that began to wait later keep waiting, and the limit stays the same."""
    semaphore = PrioritySemaphore(1)
    await semaphore.acquire()
    _, (early,) = await acquired_by(semaphore, Urgency.NEW_WORK)
    since = asyncio.get_running_loop().time() + 0.001
    await asyncio.sleep(0.005)
    came, (late,) = await acquired_by(semaphore, Urgency.BEAT)
    semaphore.fail_waiters(since, lambda: ConnectionError("nobody"))
    with pytest.raises(ConnectionError):
        await early
    assert not late.done()
    semaphore.release()
    await late
    assert came == [0]
    semaphore.release()
    await asyncio.wait_for(semaphore.acquire(), 1)


async def test_a_timeout_ends() -> None:
    """It raises TimeoutError, and nothing if the block ends before."""
    async with StepwiseTimeout(5):
        pass
    with pytest.raises(TimeoutError):
        async with StepwiseTimeout(0.02):
            await asyncio.Event().wait()


async def test_a_blocked_loop_uses_up_one_step_of_a_timeout() -> None:
    """A reply that arrived while the event loop was blocked is read, though the time is over."""
    heard = asyncio.Event()
    async with StepwiseTimeout(0.1):
        asyncio.get_running_loop().call_later(0.01, heard.set)
        time.sleep(0.3)  # noqa: ASYNC251  # this is what is tried
        await heard.wait()
