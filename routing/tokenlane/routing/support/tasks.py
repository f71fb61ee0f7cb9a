"""Runs asyncio tasks: for the duration of a block, with a restart after unexpected errors, or several concurrently."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSES_S = (0.05, 0.1, 0.2, 0.5, 1.0)
_WELL_AFTER_S = 10.0


class InternalErrors:
    """Counts and logs the unexpected errors that this process survived."""

    def __init__(self) -> None:
        self.count = 0
        self._alike: Counter[tuple[str, type[Exception]]] = Counter()

    def record(self, what: str, error: Exception) -> None:
        """Count an error, and log its type and where it was raised.

        Of errors with the same type and task, the first, second, fourth, eighth and so on are logged. An error's
        message is never logged, since it may quote a prompt or an answer.

        Args:
            what: the task or step that failed, as the log names it.
        """
        self.count += 1
        self._alike[what, type(error)] += 1
        alike = self._alike[what, type(error)]
        if alike & (alike - 1) == 0:
            logger.error(
                "internal error in the %s, which continues (%d such errors so far):\n%s", what, alike, _traced(error)
            )


async def restart_on_error(what: str, work: Callable[[], Awaitable[None]], errors: InternalErrors) -> None:
    """Run endless work. If it raises an unexpected error, note the error and start the work again after a short pause.

    Args:
        what: the task, as the log names it.
        work: called and awaited at each start.
    """
    clock = asyncio.get_running_loop().time
    failures = 0
    while True:
        began = clock()
        try:
            return await work()
        except Exception as error:
            errors.record(what, error)
        if clock() - began > _WELL_AFTER_S:
            failures = 0
        await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
        failures += 1


def _traced(error: BaseException) -> str:
    """The types of an error and its causes, and where they were raised."""
    return "\n".join(
        "".join(traceback.format_tb(each.__traceback__)) + f"{type(each).__module__}.{type(each).__qualname__}"
        for each in _chain(error)
    )


def _chain(error: BaseException, *later: BaseException) -> Iterator[BaseException]:
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for each in (before, *members):
        if each is not None and each not in later:  # an error can also be the context of its cause
            yield from _chain(each, error, *later)
    yield error


class _BlockEnded(Exception):
    """The block has ended, so its tasks are cancelled."""


@asynccontextmanager
async def background() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose tasks are cancelled and awaited when the block ends, with or without an error.

    An error that the block raises is re-raised as it is, not inside an exception group.

    Raises:
        ExceptionGroup: a task failed, and so the block was cancelled.
    """
    raised: Exception | None = None
    try:
        async with asyncio.TaskGroup() as tasks:
            try:
                yield tasks
            except Exception as error:
                raised = error
            raise _BlockEnded
    except* _BlockEnded:
        pass
    if raised is not None:
        raise raised


async def gather_to_end(*calls: Awaitable[T]) -> list[T]:
    """Await all calls concurrently, each to its end even if others fail, and return their results in order.

    Raises:
        Exception: the error of the first call that failed, once all calls have ended.
    """
    results: list[T] = []
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
