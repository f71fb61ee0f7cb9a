"""A mock pool for agents' tests: a function answers the requests, so no Redis server and no worker is needed."""

from __future__ import annotations

import math
import string
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from typing import Any, Self, TypeAlias

from tokenlane.producer.client import Client
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.requests import ChatRequest, EmbedRequest
from tokenlane.routing.hooks.functions import RequestHook, TokenHook
from tokenlane.routing.support.tasks import background

from .memory_link import MemoryLink
from .mock_messages import ChatResult, EmbedResult, MockMessages, chat_messages, embed_messages, type_of

Handler: TypeAlias = Callable[[ChatRequest], ChatResult | Awaitable[ChatResult]]
EmbedHandler: TypeAlias = Callable[[EmbedRequest], EmbedResult | Awaitable[EmbedResult]]


def letters(request: EmbedRequest) -> list[list[float]]:
    """Return a vector of letter counts for each text, so that similar texts get similar vectors."""
    counts = ([1.0, *map(float, map(text.lower().count, string.ascii_lowercase))] for text in request.inputs)
    return [[number / math.hypot(*count) for number in count] for count in counts]


class MockPool(AsyncExitStack):
    """An async context manager whose clients are answered by two functions in this process.

    An `LlmError` from a function is raised in the agent. Any other error ends the block and is raised there, since it
    is a bug in the test. Requests are never retried, and clients cannot attach to them.

    Attributes:
        requests: the chat requests that the pool has received.
        embed_requests: the embed requests that the pool has received.

    Args:
        handler: answers a chat request: a function that returns the text or a list of pieces, or a generator of pieces;
            plain or async. A piece is a text, a `TokenDelta`, or a `Failover` or `Restart`, which stands for a failure
            in mid-answer. If the request is cancelled or its time to live passes, an async handler is cancelled where
            it awaits, and a plain generator is stopped where it yields.
        embed: answers an embed request: a function, plain or async, that returns a vector for each text.

    Raises:
        TypeError: `handler` or `embed` is not callable.

    Raises, at the end of the block:
        TypeError: a function returned or yielded a value of another type.
        ValueError: the number of vectors differs from the number of texts, the vectors have different lengths or no
            numbers, or a number is not finite.
    """

    def __init__(self, handler: Handler = lambda _: "", *, embed: EmbedHandler = letters) -> None:
        super().__init__()
        for name, function in {"handler": handler, "embed": embed}.items():
            if not callable(function):
                raise TypeError(f"`{name}` is a function that answers requests, not {type_of(function)}")
        self.requests, self.handler = list[ChatRequest](), handler
        self.embed_requests, self.embed = list[EmbedRequest](), embed
        self._link: MemoryLink | None = None

    async def __aenter__(self) -> Self:
        self.callback(setattr, self, "_link", None)
        self._link = MemoryLink(await self.enter_async_context(background()), self._answer)
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        link = self._entered()
        try:
            return await super().__aexit__(*raised)
        except ExceptionGroup:
            if link.failure is None:
                raise
            raise link.failure from None

    def client(
        self,
        *,
        agent: str | None = None,
        token_hook: TokenHook | None = None,
        request_hook: RequestHook | None = None,
    ) -> Client:
        """Make a client of this pool, to be entered like any other client."""
        return Client(
            link=lambda: nullcontext(self._entered()), agent=agent, token_hook=token_hook, request_hook=request_hook
        )

    def _entered(self) -> MemoryLink:
        if self._link is None:
            raise RuntimeError("the pool is not entered: use `async with MockPool(...) as pool`")
        return self._link

    def _answer(self, envelope: Envelope, payload: bytes) -> MockMessages:
        if envelope.kind == "embed":
            self.embed_requests.append(embed := EmbedRequest.model_validate_json(payload))
            return embed_messages(lambda: self.embed(embed), len(embed.inputs))
        self.requests.append(request := ChatRequest.model_validate_json(payload))
        return chat_messages(lambda: self.handler(request), may_restart=request.on_interrupt == "restart")
