"""Limits the time that a hook takes for a step, and does not let the hook swallow a cancellation or block unseen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

BLOCKED_S = 3.0
"""How long a hook may block the event loop without a warning in the log; a lease is 10 s by default."""
_TICK_S = 1.0
"""How often the timer shows that the event loop runs."""


class StepLimit:
    """A time limit for each step of a hook, with one timer for all of them: a timer for each step would cost as much as
    the rest of the step.

    `has_expired`: whether a step has taken too long.

    Args:
        hook: the kind and the name of the hook, for the log.
        patience_s: how long a step may take, without the time during which it is paused.
    """

    def __init__(self, hook: str, patience_s: float) -> None:
        self.has_expired = False
        self._loop = asyncio.get_running_loop()
        self._hook, self._patience_s = hook, patience_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._since: float | None = None
        self._ticked_at = self._loop.time()
        self._has_cancelled_step = self._is_cancelled = self._has_warned = False

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(min(_TICK_S, self._patience_s), self._tick)
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
            if self._has_cancelled_step:
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
        since, self._since = self._since, None
        if since is not None:
            now = self._loop.time()
            self.has_expired = self.has_expired or now >= since + self._patience_s
            blocked_s = now - max(since, self._ticked_at)
            if blocked_s > BLOCKED_S and not self._has_warned:
                self._warn(blocked_s)

    def resume(self) -> None:
        """Count the time from now on."""
        self._since = self._loop.time()

    def is_current(self) -> bool:
        """Whether this task runs the step."""
        return asyncio.current_task(self._loop) is self._task

    def _tick(self) -> None:
        self._ticked_at = now = self._loop.time()
        over = (now if self._since is None else self._since) + self._patience_s
        if now < over or self._task is None:
            self._timer = self._loop.call_at(min(now + _TICK_S, over), self._tick)
        else:
            self.has_expired = self._has_cancelled_step = True
            self._task.cancel()

    def _warn(self, blocked_s: float) -> None:
        self._has_warned = True
        logger.warning(
            "the %s blocked the event loop for %.1f s: meanwhile no other answer of this process goes on, and a worker "
            "that is blocked for longer than its lease counts as dead; move the work to `asyncio.to_thread`",
            self._hook,
            blocked_s,
        )
