"""Limits the time that a hook takes for a step, and does not let the hook swallow a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class StepLimit:
    """A time limit for each step of a hook, with one timer for all of them: a timer for each step would cost as much as
    the rest of the step.

    `has_expired`: whether a step has taken too long.

    Args:
        patience_s: how long a step may take, without the time during which it is paused.
    """

    def __init__(self, patience_s: float) -> None:
        self.has_expired = False
        self._loop = asyncio.get_running_loop()
        self._patience_s = patience_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._since: float | None = None
        self._is_cancelled = False

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._patience_s, self._fire)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def run(self, step: Awaitable[T]) -> T:
        """Await a step of the hook, and cancel it when its time is over.

        Raises:
            TimeoutError: the step took too long.
            CancelledError: the task was cancelled, even if the hook returned all the same.
            BaseException: what the hook raised, which may also be a CancelledError: see `is_interruption`.
        """
        task = asyncio.current_task(self._loop)
        assert task is not None
        cancelling = task.cancelling()
        self._task = task
        self.resume()
        try:
            return await step
        finally:
            self.pause()
            if self.has_expired:
                task.uncancel()
            if task.cancelling() > cancelling:
                self._is_cancelled = True
                raise asyncio.CancelledError
            if self.has_expired:
                raise TimeoutError

    def is_interruption(self, error: BaseException) -> bool:
        """Whether an exception from `run` ends the whole task: it is Ctrl-C, or the cancellation of the task. Any
        other is the hook's failure, also a CancelledError that the hook raised or that it got from a task of its own.
        """
        return isinstance(error, KeyboardInterrupt) or (
            isinstance(error, asyncio.CancelledError) and self._is_cancelled
        )

    def pause(self) -> None:
        """Do not count the time from now on, since the hook waits for its answer."""
        self._since = None

    def resume(self) -> None:
        """Count the time from now on."""
        self._since = self._loop.time()

    def is_current(self) -> bool:
        """Whether this task runs the step."""
        return asyncio.current_task(self._loop) is self._task

    def _fire(self) -> None:
        now = self._loop.time()
        if self._since is None or self._task is None:
            self._timer = self._loop.call_at(now + self._patience_s, self._fire)
        elif now < self._since + self._patience_s:
            self._timer = self._loop.call_at(self._since + self._patience_s, self._fire)
        else:
            self.has_expired = True
            self._task.cancel()
