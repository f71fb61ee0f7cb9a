"""The client for code that is not asynchronous: the same methods, its event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Generic, Self, TypeVar, Unpack

from tokenlane.routing.messages import Answer, ChatOptions, ModelInfo, Parsed, Progress, TokenDelta, Usage

from . import client, stream
from .embeddings import Embeddings, EmbedOptions
from .forms import Form
from .request import Messages

__all__ = ["ChatStream", "Client"]

T = TypeVar("T")


class Client:
    """A context manager with the methods of `tokenlane.producer.Client`, for any number of threads.

    Arguments and errors are those of the asynchronous client. A call that is interrupted (Ctrl-C) cancels its request.
    Leaving the block cancels what runs, and ends the thread. Outside of it, and in a fork, a call is a RuntimeError.
    """

    def __init__(
        self, url: str | None = None, *, pool: str | None = None, agent: str | None = None, key: client.Keys = ()
    ) -> None:
        self._client = client.Client(url, pool=pool, agent=agent, key=key)
        self._loop: asyncio.AbstractEventLoop | None = None

    def chat(
        self, messages: Messages, *, role: str, response_format: Form[Parsed] = None, **options: Unpack[ChatOptions]
    ) -> ChatStream[Parsed]:
        """Ask for an answer, as a stream to enter and to iterate over."""

        async def ask() -> stream.ChatStream[Parsed]:  # an id is taken, which wakes a task
            return self._client.chat(messages, role=role, response_format=response_format, **options)

        return ChatStream(self, self._call(ask))

    def complete(
        self, messages: Messages, *, role: str, response_format: Form[Parsed] = None, **options: Unpack[ChatOptions]
    ) -> Answer[Parsed]:
        """Ask for an answer, whole."""
        with self.chat(messages, role=role, response_format=response_format, **options) as stream:
            return stream.answer()

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        role: str,
        allow_other_models: bool = False,
        **options: Unpack[EmbedOptions],
    ) -> Embeddings:
        """Turn a text, or several, into vectors."""
        return self._call(
            lambda: self._client.embed(texts, role=role, allow_other_models=allow_other_models, **options)
        )

    def models(self, *, lane: str | None = None) -> list[ModelInfo]:
        """The models of all open lanes, or of one."""
        return self._call(lambda: self._client.models(lane=lane))

    def pull(self, model: str, *, lane: str | None = None) -> Generator[Progress, None, None]:
        """Have a lane fetch a model: how far it is, until the model is there. Closing the iterator cancels it."""
        self._running()
        steps = self._client.pull(model, lane=lane)

        async def step() -> Progress | None:
            return await anext(steps, None)

        try:
            while (progress := self._call(step)) is not None:
                yield progress
        finally:
            with suppress(RuntimeError):  # closed, and its requests cancelled
                self._call(steps.aclose)

    def verify(self, model: str, *, lane: str | None = None) -> ModelInfo:
        """Have a lane compute or look up a model's digest."""
        return self._call(lambda: self._client.verify(model, lane=lane))

    def load(self, model: str, *, lane: str | None = None) -> None:
        """Have a lane load a model into memory."""
        self._call(lambda: self._client.load(model, lane=lane))

    def unload(self, model: str, *, lane: str | None = None) -> None:
        """Have a lane free a model's memory."""
        self._call(lambda: self._client.unload(model, lane=lane))

    def attach(self, request_id: str, *, after: int | None = None) -> ChatStream:
        """Join a request, as a stream of everything after the position given."""
        self._running()
        return ChatStream(self, self._client.attach(request_id, after=after))

    def cancel(self, request_id: str) -> bool:
        """Cancel a request, whoever sent or reads it."""
        return self._call(lambda: self._client.cancel(request_id))

    def __enter__(self) -> Self:
        self._process, self._closing, opened = os.getpid(), asyncio.Event(), Future[None]()
        self._failed, self._loop = Future[None](), asyncio.new_event_loop()
        self._thread = Thread(target=self._run, args=(self._loop, opened), name="tokenlane client", daemon=True)
        self._thread.start()
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
        async with self._client:
            opened.set_result(None)
            await self._closing.wait()

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the client is not connected: use `with Client() as client`")
        if os.getpid() != self._process:
            raise RuntimeError(f"the client belongs to process {self._process}, of which this is a fork: open one here")
        return self._loop

    def _call(self, ask: Callable[[], Coroutine[None, None, T]]) -> T:
        loop = self._running()
        future = asyncio.run_coroutine_threadsafe(ask(), loop)
        try:
            return future.result()
        finally:
            future.cancel()  # if the thread that waits was interrupted


class ChatStream(Generic[Parsed]):
    """One answer: a `tokenlane.producer.ChatStream` for `with` and `for`, with the same attributes."""

    request_id: str
    text: str
    usage: Usage | None
    waiting: str | None

    def __init__(self, owner: Client, inner: stream.ChatStream[Parsed]) -> None:
        self._owner, self._inner, self._entered = owner, inner, False

    def __getattr__(self, name: str) -> object:
        if name not in self.__annotations__:
            raise AttributeError(name)
        return getattr(self._inner, name)

    def cancel(self) -> None:
        """Cancel the request for all who read it."""
        self._call(self._inner.cancel)

    def answer(self) -> Answer[Parsed]:
        """Wait for the end; the whole answer."""
        return self._call(self._inner.answer)

    def __enter__(self) -> Self:
        self._owner._call(self._inner.__aenter__)
        self._entered = True
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(RuntimeError):  # closed, and its requests cancelled; or the parent's
            self._owner._call(lambda: self._inner.__aexit__(None, None, None))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> TokenDelta:
        try:
            return self._call(self._inner.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def _call(self, ask: Callable[[], Coroutine[None, None, T]]) -> T:
        if not self._entered:
            raise RuntimeError("the stream is not entered: use `with client.chat(...) as stream`")
        return self._owner._call(ask)
