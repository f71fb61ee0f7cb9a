"""The client for code that is not asynchronous: the same methods, its event loop on a thread of its own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Generic, Self, Unpack

from tokenlane.routing.contract.answers import Answer, Parsed, TokenDelta, Usage
from tokenlane.routing.contract.requests import ChatOptions
from tokenlane.routing.contract.results import ModelInfo, Progress

from . import client, stream
from .compose import Messages
from .embeddings import Embeddings, EmbedOptions
from .loop_thread import LoopThread
from .response_format import Form


class Client(LoopThread[client.Client]):
    """A context manager with the methods of `tokenlane.producer.Client`, for any number of threads.

    Arguments and errors are those of the asynchronous client. A call that is interrupted (Ctrl-C) cancels its request.
    Leaving the block cancels what runs, and ends the thread. Outside of it, and in a fork, a call is a RuntimeError.
    """

    def __init__(
        self, url: str | None = None, *, pool: str | None = None, agent: str | None = None, key: client.Keys = ()
    ) -> None:
        super().__init__(client.Client(url, pool=pool, agent=agent, key=key))

    def chat(
        self,
        messages: Messages,
        *,
        role: str,
        agent: str | None = None,
        response_format: Form[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> ChatStream[Parsed]:
        """Ask for an answer, as a stream to enter and to iterate over."""

        async def ask() -> stream.ChatStream[Parsed]:  # an id is taken, which wakes a task
            return self._kept.chat(messages, role=role, agent=agent, response_format=response_format, **options)

        return ChatStream(self, self._call(ask))

    def complete(
        self,
        messages: Messages,
        *,
        role: str,
        agent: str | None = None,
        response_format: Form[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> Answer[Parsed]:
        """Ask for an answer, whole."""
        with self.chat(messages, role=role, agent=agent, response_format=response_format, **options) as stream:
            return stream.answer()

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        role: str,
        agent: str | None = None,
        allow_other_models: bool = False,
        **options: Unpack[EmbedOptions],
    ) -> Embeddings:
        """Turn a text, or several, into vectors."""
        return self._call(
            lambda: self._kept.embed(texts, role=role, agent=agent, allow_other_models=allow_other_models, **options)
        )

    def models(self, *, lane: str | None = None) -> list[ModelInfo]:
        """The models of all open lanes, or of one."""
        return self._call(lambda: self._kept.models(lane=lane))

    def pull(self, model: str, *, lane: str | None = None) -> Generator[Progress, None, None]:
        """Have a lane fetch a model: how far it is, until the model is there. Closing the iterator cancels it."""
        self._running()
        steps = self._kept.pull(model, lane=lane)

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
        return self._call(lambda: self._kept.verify(model, lane=lane))

    def load(self, model: str, *, lane: str | None = None) -> None:
        """Have a lane load a model into memory."""
        self._call(lambda: self._kept.load(model, lane=lane))

    def unload(self, model: str, *, lane: str | None = None) -> None:
        """Have a lane free a model's memory."""
        self._call(lambda: self._kept.unload(model, lane=lane))

    def attach(self, request_id: str, *, after: int | None = None) -> ChatStream:
        """Join a request, as a stream of everything after the position given."""
        self._running()
        return ChatStream(self, self._kept.attach(request_id, after=after))

    def cancel(self, request_id: str) -> bool:
        """Cancel a request, whoever sent or reads it."""
        return self._call(lambda: self._kept.cancel(request_id))


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
        self._running()._call(self._inner.cancel)

    def answer(self) -> Answer[Parsed]:
        """Wait for the end; the whole answer."""
        return self._running()._call(self._inner.answer)

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
            return self._running()._call(self._inner.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def _running(self) -> Client:
        if not self._entered:
            raise RuntimeError("the stream is not entered: use `with client.chat(...) as stream`")
        return self._owner
