"""Runs an event loop on a background thread, and holds an async context manager open on it for other threads."""

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
    """Starts the loop and enters `kept` on it when its block begins; exits `kept` and ends the thread when it ends.

    Args:
        kept: the async context manager; each block enters it anew. Error messages call it the client.
    """

    def __init__(self, kept: Manager) -> None:
        self._manager = kept
        self._entering = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def _running(self) -> asyncio.AbstractEventLoop:
        """The loop.

        Raises:
            RuntimeError: called outside the block or in a fork.
        """
        if self._loop is None:
            raise RuntimeError("the client is not connected: use `with Client() as client`")
        if os.getpid() != self._process:
            raise RuntimeError(f"the client belongs to process {self._process}, of which this is a fork: open one here")
        return self._loop

    def _call(self, ask: Callable[[], Coroutine[None, None, T]]) -> T:
        """Run a coroutine on the loop and wait for its result. An interruption, such as Ctrl-C, cancels it."""
        loop = self._running()
        future = asyncio.run_coroutine_threadsafe(ask(), loop)
        try:
            return future.result()
        finally:
            future.cancel()  # has an effect only if this thread was interrupted

    def __enter__(self) -> Self:
        with self._entering:
            if self._loop is not None:
                self._running()
                raise RuntimeError("the client is connected already: enter it once, and share it")
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
        with suppress(RuntimeError):  # the thread has ended already
            loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        if self._failed.done():
            self._failed.result()

    def _run(self, loop: asyncio.AbstractEventLoop, opened: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(self._live(opened))
        except BaseException as error:
            (self._failed if opened.done() else opened).set_exception(error)

    async def _live(self, opened: Future[None]) -> None:
        async with self._manager:
            opened.set_result(None)
            await self._closing.wait()
