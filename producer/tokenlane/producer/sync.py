"""The blocking client, for code without an event loop: it runs the asynchronous client on a background thread."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from functools import wraps
from typing import Concatenate, Generic, Literal, ParamSpec, Self, TypeVar, Unpack

from tokenlane.routing.contract.answers import Answer, Parsed, TokenDelta, Usage
from tokenlane.routing.contract.requests import ChatOptions, Message
from tokenlane.routing.contract.results import Progress
from tokenlane.routing.hooks.functions import RequestHook, TokenHook

from . import client, stream
from .compose import Messages
from .conversation import conversation
from .conversation.history import Question
from .conversation.options import ConversationOptions
from .loop_thread import LoopThread
from .response_format import ResponseFormat

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[client.Client, P], Coroutine[None, None, T]],
) -> Callable[Concatenate[Client, P], T]:
    """Turn a method of the asynchronous client into one that blocks its caller until it returns."""

    @wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(lambda: method(self._manager, *args, **kwargs))

    return call


class Client(LoopThread[client.Client]):
    """A context manager with the methods of `tokenlane.producer.Client`. Any number of threads may share it.

    Arguments and errors are those of the asynchronous client. Interrupting a call (Ctrl-C) cancels its request. Leaving
    the block cancels all running requests and ends the background thread.

    Raises, when a method is called:
        RuntimeError: the call is outside the block, or in a fork of the process that entered it.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        pool: str | None = None,
        agent: str | None = None,
        key: client.PoolKeys = None,
        token_hook: TokenHook | None = None,
        request_hook: RequestHook | None = None,
    ) -> None:
        super().__init__(
            client.Client(url, pool=pool, agent=agent, key=key, token_hook=token_hook, request_hook=request_hook)
        )

    def chat(
        self,
        messages: Messages,
        *,
        role: str,
        agent: str | None = None,
        response_format: ResponseFormat[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> ChatStream[Parsed]:
        """Return a stream of a chat's answer. Entering the stream sends the request."""
        self._running()
        inner = self._manager.chat(messages, role=role, agent=agent, response_format=response_format, **options)
        return ChatStream(self, inner)

    def conversation(
        self, *, role: str, agent: str | None = None, **options: Unpack[ConversationOptions]
    ) -> Conversation:
        """Return a conversation, which asks each question with everything that was said before."""
        self._running()
        return Conversation(self, self._manager.conversation(role=role, agent=agent, **options))

    complete = _blocking(client.Client.complete)
    embed = _blocking(client.Client.embed)
    models = _blocking(client.Client.models)
    verify = _blocking(client.Client.verify)
    load = _blocking(client.Client.load)
    unload = _blocking(client.Client.unload)
    cancel = _blocking(client.Client.cancel)

    def pull(self, model: str, *, lane: str | None = None) -> Generator[Progress, None, None]:
        """Pull a model onto a lane, and yield the progress until it is ready. Closing the iterator cancels the pull."""
        self._running()
        steps = self._manager.pull(model, lane=lane)

        async def step() -> Progress | None:
            return await anext(steps, None)

        try:
            while (progress := self._call(step)) is not None:
                yield progress
        finally:
            with suppress(RuntimeError):  # the client was closed, which cancelled its requests
                self._call(steps.aclose)

    def attach(
        self, request_id: str, *, after: int | None = None, on_interrupt: Literal["error", "restart"] = "error"
    ) -> ChatStream:
        """Join a request, and return a stream of all deltas after the given position."""
        self._running()
        return ChatStream(self, self._manager.attach(request_id, after=after, on_interrupt=on_interrupt))


class ChatStream(Generic[Parsed]):
    """A blocking `tokenlane.producer.ChatStream`, for plain `with` and `for`. It has the same attributes."""

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
        """Cancel the request for all its readers."""
        self._running()._call(self._inner.cancel)

    def answer(self) -> Answer[Parsed]:
        """Wait for the end and return the complete answer."""
        return self._running()._call(self._inner.answer)

    def __enter__(self) -> Self:
        self._owner._call(self._inner.__aenter__)
        self._entered = True
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(RuntimeError):  # the client was closed, which cancelled its requests; or this is a fork
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


class Conversation:
    """A blocking `tokenlane.producer.Conversation`, with the same attributes and methods."""

    id: str
    messages: list[Message]
    left_out: int
    open_calls: list[str]

    def __init__(self, owner: Client, inner: conversation.Conversation) -> None:
        self._owner, self._inner = owner, inner
        self.add_tool_result, self.save = inner.add_tool_result, inner.save

    def __getattr__(self, name: str) -> object:
        if name not in self.__annotations__:
            raise AttributeError(name)
        return getattr(self._inner, name)

    def ask(
        self,
        question: Question | None = None,
        *,
        response_format: ResponseFormat[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> ChatStream[Parsed]:
        """Return a stream of the answer. Entering the stream sends the question, as soon as it is its turn."""
        return ChatStream(self._owner, self._inner.ask(question, response_format=response_format, **options))

    def complete(
        self,
        question: Question | None = None,
        *,
        response_format: ResponseFormat[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> Answer[Parsed]:
        """Ask a question and return the complete answer."""
        return self._owner._call(lambda: self._inner.complete(question, response_format=response_format, **options))

    def fork(self, id: str | None = None) -> Conversation:
        """Return a new conversation with the same messages."""
        return Conversation(self._owner, self._owner._call(lambda: self._inner.fork(id)))

    def load(self, saved: str | bytes) -> None:
        """Replace all messages by those of a saved conversation."""
        self._owner._call(lambda: self._inner.load(saved))

    def clear(self) -> None:
        """Remove all messages but those of the system."""
        self._owner._call(self._inner.clear)

    def refresh(self) -> None:
        """Read the conversation from its file."""
        self._owner._call(self._inner.refresh)
