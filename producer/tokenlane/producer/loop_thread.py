"""Runs an event loop on a background thread, and keeps an async context manager open there for other threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from threading import Lock, Thread
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Manager = TypeVar("Manager", bound=AbstractAsyncContextManager[Any])


class LoopThread(Generic[Manager]):
    """A context manager that starts the loop and enters `manager` on it, and at the end exits it and stops the thread.

    Args:
        manager: the async context manager, which each block enters again. Error messages call it the client.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._entering = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def _running(self) -> asyncio.AbstractEventLoop:
        """Return the loop.

        Raises:
            RuntimeError: the call is outside the block or in a fork of the process.
        """
        if self._loop is None:
            raise RuntimeError("the client is not connected: use `with Client() as client`")
        if os.getpid() != self._process:
            raise RuntimeError(f"the client belongs to process {self._process}: open another one in this fork")
        return self._loop

    def _call(self, function: Callable[[], Coroutine[None, None, T]]) -> T:
        """Call a coroutine function on the loop and wait for its result. An interruption such as Ctrl-C cancels it."""
        loop = self._running()
        future = asyncio.run_coroutine_threadsafe(function(), loop)
        try:
            return future.result()
        finally:
            future.cancel()  # has an effect only if this thread was interrupted

    def __enter__(self) -> Self:
        with self._entering:
            if self._loop is not None:
                self._running()
                raise RuntimeError("the client is already connected: enter it once and share it")
            self._process, self._closing, self._failed = os.getpid(), asyncio.Event(), Future[None]()
            loop, opened = asyncio.new_event_loop(), Future[None]()
            self._thread = Thread(target=self._run, args=(loop, opened), name="tokenlane client", daemon=True)
            self._thread.start()
            self._loop = loop
        try:
            opened.result()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        loop, self._loop = self._loop, None
        if loop is None or os.getpid() != self._process:
            return
        with suppress(RuntimeError):  # the thread has already ended
            loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        if self._failed.done():
            self._failed.result()

    def _run(self, loop: asyncio.AbstractEventLoop, opened: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(self._keep_open(opened))
        except BaseException as error:
            (self._failed if opened.done() else opened).set_exception(error)

    async def _keep_open(self, opened: Future[None]) -> None:
        async with self._manager:
            opened.set_result(None)
            await self._closing.wait()
