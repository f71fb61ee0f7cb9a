"""Runs asyncio tasks: during a block, with a restart after an unexpected error, or several to the end of all."""

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
_STABLE_AFTER_S = 10.0


class InternalErrors:
    """Counts and logs unexpected errors that did not end the process. Each is a bug of tokenlane or of an extension."""

    def __init__(self) -> None:
        self.count = 0
        self._alike: Counter[tuple[str, type[Exception]]] = Counter()

    def record(self, what: str, error: Exception) -> None:
        """Count an error, and log its type and where it was raised.

        Of the errors with the same task and type, only the first, second, fourth, eighth and so on are logged. The log
        omits an error's message, since it may quote a prompt or an answer.

        Args:
            what: the log's name for the task or step that failed.
        """
        self.count += 1
        self._alike[what, type(error)] += 1
        alike = self._alike[what, type(error)]
        if alike & (alike - 1) == 0:
            logger.error(
                "internal error in the %s, which continues (%d such errors so far):\n%s", what, alike, _traced(error)
            )


async def restart_on_error(what: str, work: Callable[[], Awaitable[None]], errors: InternalErrors) -> None:
    """Run work that does not end by itself. If it raises an unexpected error, record the error and start the work again
    after a pause, which grows from 50 ms to 1 s.

    Args:
        what: the log's name for the task.
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
        if clock() - began > _STABLE_AFTER_S:
            failures = 0
        await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
        failures += 1


def _traced(error: BaseException) -> str:
    """The types of an error and of its causes, each with its traceback."""
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

    An error that the block raises is raised unchanged, not inside an exception group.

    Raises:
        ExceptionGroup: a task failed, which cancelled the block.
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
    """Await all calls concurrently, and return their results in order. A call that fails does not cancel the others.

    Raises:
        Exception: the error of the first failed call in the order of the arguments, once all calls have ended.
    """
    results: list[T] = []
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
