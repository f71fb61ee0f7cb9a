"""What an agent holds while its answer comes."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, cast

from pydantic import JsonValue

from tokenlane.routing.contract.answers import Answer, Parsed, TokenDelta, Usage

from .link.link import Link
from .link.open_request import OpenRequest
from .response_format import filled


class ChatStream(Generic[Parsed]):
    """One answer: an async context manager that submits the request, and an async iterator of its deltas.

    Leaving the block before the end cancels the request, unless another stream has attached to it since. So does
    dropping the stream, with a `ResourceWarning`.

    Raises, entered:
        BadRequest: the request is not valid or too large; or its answer has ended before the position attached at.
        Duplicate: a request with the same idempotency key has ended.
        RequestLost: the pool does not know the request to attach to.
        QueueFull: the pool has too much to do.
        PoolUnavailable: the pool's server does not answer.

    Raises, iterated, after all deltas that came before:
        Interrupted: the answer broke off; `partial` holds what there is of its text.
        NoToolCall: the answer is whole, and calls no tool, though `tool_choice` requires it.
        RequestCancelled, DeadlineExceeded: as they say.
        BadRequest: the answer ended before the position attached at.
        LlmError: what else the request failed with.
    """

    def __init__(
        self,
        request_id: str,
        link: Link,
        submit: Callable[[], Awaitable[OpenRequest]],
        form: type[Parsed] | None = None,
        metadata: dict[str, JsonValue] | None = None,
    ) -> None:
        self._request_id = request_id
        self._link = link
        self._submit = submit
        self._form = form
        self._metadata = metadata
        self._request: OpenRequest | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<ChatStream {self.request_id}>"

    @property
    def request_id(self) -> str:
        """The request's id, for `Client.attach`. Once entered it may be another one: that of the request which has the
        same idempotency key and still runs."""
        return self._request.id if self._request else self._request_id

    @property
    def text(self) -> str:
        """The answer's text as far as it has come; of one that was attached to, what came after the given position."""
        return self._request.text if self._request else ""

    @property
    def usage(self) -> Usage | None:
        """What the request cost; None before the answer is whole."""
        return self._request.usage if self._request else None

    @property
    def waiting(self) -> str | None:
        """Why the request has not started; None once it has, and before it was submitted."""
        return self._request.waiting if self._request else None

    async def cancel(self) -> None:
        """Cancel the request for all who read it; the iterator then ends with `RequestCancelled`.

        Returns when the pool has heard it. If that takes more than 2 s it is told as soon as it can be.
        """
        await self._link.close(self._entered(), everywhere=True)

    async def answer(self) -> Answer[Parsed]:
        """Wait for the end; the whole answer, whatever was iterated of it. Raises as iterating does.

        Raises:
            SchemaMismatch: it is not in the form that was asked for; `text` holds what it says.
        """
        answer = await self._entered().finish()
        if self._metadata is not None:
            answer = answer.model_copy(update={"metadata": self._metadata})
        return cast("Answer[Parsed]", answer) if self._form is None else filled(answer, self._form)

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise RuntimeError("a stream is entered once: call client.chat() again")
        self._loop = asyncio.get_running_loop()
        self._request = await self._submit()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        request = self._entered()
        if kind is not None and issubclass(kind, GeneratorExit):
            self._link.leave(request)  # the agent's coroutine is being closed and can await nothing
        else:
            await self._link.close(request)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenDelta:
        delta = await self._entered().next()
        if delta is None:
            raise StopAsyncIteration
        return delta

    def _entered(self) -> OpenRequest:
        if self._request is None:
            raise RuntimeError("the stream is not entered: use `async with client.chat(...) as stream`")
        return self._request

    def __del__(self) -> None:
        request = self._request
        if request is None:
            self._link.give_back_id(self._request_id)
        if request is None or self._loop is None or request.ended:
            return
        with suppress(RuntimeError):  # the loop is closed, and everything with it
            self._loop.call_soon_threadsafe(self._link.leave, request)
        warnings.warn(f"{self!r} was dropped without being closed; its request is cancelled", ResourceWarning, 2, self)
