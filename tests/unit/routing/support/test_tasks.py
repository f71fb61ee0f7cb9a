from __future__ import annotations

import asyncio
import logging

import pytest
from tests.waiting import until

from tokenlane.routing.support import tasks as tasks_module
from tokenlane.routing.support.tasks import InternalErrors, background, restart_on_error

SECRET = "what an agent has asked"


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failing work begins anew at once."""
    monkeypatch.setattr(tasks_module, "_PAUSES_S", (0.0,))


class Work:
    """Fails as often as it is told to, then runs for ever."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.runs = 0

    async def __call__(self) -> None:
        self.runs += 1
        if self.runs <= self.failures:
            try:
                raise ValueError(SECRET)
            except ValueError as error:
                raise ExceptionGroup(SECRET, [KeyError(SECRET)]) from error
        await asyncio.Event().wait()


async def test_failed_work_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """Each error is counted. The log says where the error was raised, but not its message."""
    work, errors = Work(failures=5), InternalErrors()
    with caplog.at_level(logging.ERROR):
        async with background() as tasks:
            task = tasks.create_task(restart_on_error("work", work, errors))
            await until(lambda: work.runs == 6)
            assert not task.done()
    assert errors.count == 5
    assert len(caplog.records) == 3  # of the first, the second and the fourth
    for record in caplog.records:
        told = record.getMessage()
        assert SECRET not in told
        assert __file__ in told
        assert all(name in told for name in ("ValueError", "KeyError", "ExceptionGroup"))


async def test_work_ends_when_it_is_cancelled_or_done() -> None:
    """Neither ending counts as an error."""
    errors = InternalErrors()

    async def done() -> None:
        pass

    await restart_on_error("work", done, errors)
    task = asyncio.create_task(restart_on_error("work", Work(failures=0), errors))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert errors.count == 0
