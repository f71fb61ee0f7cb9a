"""The stream of a chat's answer, which an agent enters and iterates over."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Generic, Self, cast

from pydantic import JsonValue

from tokenlane.routing.contract.answers import Answer, Parsed, TokenDelta, Usage
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.contract.requests import ChatOptions
from tokenlane.routing.decide.queue_place import QueuePlace

from .compose import Messages, compose
from .link.link import Link
from .link.open_request import OpenRequest
from .response_format import parse_answer


async def open_chat(
    link: Link,
    request_id: str,
    messages: Messages,
    options: ChatOptions,
    shape: dict[str, JsonValue] | None,
    *,
    role: str,
    agent: str,
    quota: Quota | None = None,
) -> OpenRequest:
    """Submit a chat request. Raises the errors of entering a `ChatStream`."""
    composed = partial(
        compose, request_id, messages, role, options, shape, agent=agent, client=link.client, quota=quota
    )
    return await link.open(
        composed, options.get("idempotency_key"), may_restart=options.get("on_interrupt") == "restart"
    )


class ChatStream(Generic[Parsed]):
    """The answer to a chat: an async context manager that submits the request, and an async iterator over its deltas.

    Leaving the block before the end cancels the request, unless another client has attached to it. A stream that is
    garbage-collected inside its block cancels the request, too, and issues a `ResourceWarning`.

    Raises, when entered:
        BadRequest: the request is not valid or is too large; or its answer has ended before the given position.
        Duplicate: a request with the same idempotency key has ended.
        RequestLost: the pool does not know the request to attach to.
        QueueFull: the role or the agent has too many requests, or the Redis server has no memory left.
        PoolUnavailable: the pool's Redis server does not answer.

    If the answer breaks off, the stream waits until another lane continues it: `delta.attempt` and `delta.lane` change,
    and the text has no gap and no repeat. With `on_interrupt="restart"`, an answer that no lane can continue begins
    anew: the first delta of the new answer has `restarted=True`, and all text before it is void.

    Raises, when iterated, after all earlier deltas:
        Interrupted: the answer broke off, and no lane can continue it; `partial` holds the text so far.
        NoToolCall: the answer is complete but calls no tool, although `tool_choice` requires a call.
        RequestCancelled, DeadlineExceeded: the request was cancelled, or its time to live has passed.
        BadRequest: the answer ended before the given position.
        LlmError: the request failed.
    """

    def __init__(
        self,
        request_id: str,
        link: Link,
        submit: Callable[[], Awaitable[OpenRequest]],
        model: type[Parsed] | None = None,
        metadata: dict[str, JsonValue] | None = None,
    ) -> None:
        self._request_id = request_id
        self._link = link
        self._submit = submit
        self._model = model
        self._metadata = metadata
        self._request: OpenRequest | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<ChatStream {self.request_id}>"

    @property
    def request_id(self) -> str:
        """The request's id, for `Client.attach`. If a request with the same idempotency key already runs, the stream
        joins that request when it is entered, and takes its id."""
        return self._request.id if self._request else self._request_id

    @property
    def text(self) -> str:
        """The answer's text so far. In an attached stream, only the text after the given position. If the answer begins
        anew, this begins anew, too."""
        return self._request.text if self._request else ""

    @property
    def usage(self) -> Usage | None:
        """The tokens and time that the request took; None until the answer is complete."""
        return self._request.usage if self._request else None

    @property
    def waiting(self) -> str | None:
        """Why the request has not started yet, or why an answer that broke off does not go on; None while the answer is
        streamed, and before the stream is entered."""
        return self._request.waiting if self._request else None

    @property
    def place(self) -> QueuePlace | None:
        """The request's place in its queue, and when it may start; None if it does not wait there, or before the pool
        has told it, within two seconds."""
        return self._request.place if self._request else None

    async def cancel(self) -> None:
        """Cancel the request for all its readers; iterators then raise `RequestCancelled`.

        Returns once the pool has cancelled the request, or after one second; the client then keeps trying in the
        background.
        """
        await self._link.close(self._entered(), everywhere=True)

    async def take_over(self) -> None:
        """Become the owner of the request again, if another client has attached to it since. Only the owner's death
        ends a request, so clients that hold one together do this every few seconds.

        Raises:
            PoolUnavailable: the pool does not answer.
        """
        await self._link.take_over(self._entered())

    def let_go(self) -> None:
        """Stop reading without cancelling the request, just before the client is closed. The pool cancels the request
        unless another client attaches to it within the pool's orphan timeout."""
        self._link.let_go(self._entered())

    async def answer(self) -> Answer[Parsed]:
        """Wait for the end and return the complete answer, including the deltas that were already iterated. Raises the
        errors of iterating.

        Raises:
            SchemaMismatch: the answer does not match the requested pydantic model; `text` holds the answer's text.
        """
        answer = await self._entered().finish()
        if self._metadata is not None:
            answer = answer.model_copy(update={"metadata": self._metadata})
        return cast("Answer[Parsed]", answer) if self._model is None else parse_answer(self._model, answer)

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("a stream can be entered only once: call client.chat() again")
        self._loop = asyncio.get_running_loop()
        self._request = await self._submit()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        request = self._entered()
        if kind is not None and issubclass(kind, GeneratorExit):
            self._link.leave(request)  # the agent's coroutine is being closed and cannot await
        else:
            await self._link.close(request)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenDelta:
        delta = await self._entered().next()
        if delta is None:
            raise StopAsyncIteration
        return delta

    async def batch(self) -> list[TokenDelta]:
        """Wait for the next delta, and return it with all later ones that have arrived; an empty list after the last.

        A program that passes deltas on has less work with batches. Raises the errors of iterating.
        """
        return await self._entered().next_batch()

    def _entered(self) -> OpenRequest:
        if self._request is None:
            raise RuntimeError("the stream is not entered: use `async with client.chat(...) as stream`")
        return self._request

    def __del__(self) -> None:
        request = self._request
        if request is None or self._loop is None or request.ended:
            return
        with suppress(RuntimeError):  # the loop is closed, and with it the connection
            self._loop.call_soon_threadsafe(self._link.leave, request)
        warnings.warn(f"{self!r} was dropped without being closed; its request is cancelled", ResourceWarning, 2, self)
