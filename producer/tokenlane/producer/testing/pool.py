"""A mock pool for agents' tests, in which a function answers, without server and worker."""

from __future__ import annotations

import math
import string
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, nullcontext
from typing import Any, Self, TypeAlias

from tokenlane.producer.client import Client
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.requests import ChatRequest, EmbedRequest
from tokenlane.routing.support.tasks import background

from .memory_link import MemoryLink
from .mock_messages import MockMessages, Numbers, Words, chat_messages, embed_messages

Handler: TypeAlias = Callable[[ChatRequest], Words | Awaitable[Words]]
EmbedHandler: TypeAlias = Callable[[EmbedRequest], Numbers | Awaitable[Numbers]]


def letters(request: EmbedRequest) -> list[list[float]]:
    """For each text a vector with the counts of its letters, so that similar texts get similar vectors."""
    counts = ([1.0, *map(float, map(text.lower().count, string.ascii_lowercase))] for text in request.inputs)
    return [[number / math.hypot(*count) for number in count] for count in counts]


class MockPool(AsyncExitStack):
    """The handler answers with a text, with pieces of text or deltas, or with an `LlmError`. If it raises another
    error, the block ends with that. Nothing is tried again, and there is nothing to attach to.

    Attributes:
        requests: the chat requests so far.
        embed_requests: the embed requests so far.

    Args:
        handler: a function or generator, plain or async. It is cancelled with its request, or when the time to live is
            over; a plain generator only where it yields.
        embed: returns a vector for each text of an embed request.
    """

    def __init__(self, handler: Handler = lambda _: "", *, embed: EmbedHandler = letters) -> None:
        super().__init__()
        self.requests, self.handler = list[ChatRequest](), handler
        self.embed_requests, self.embed = list[EmbedRequest](), embed
        self._link: MemoryLink | None = None

    async def __aenter__(self) -> Self:
        self.callback(setattr, self, "_link", None)
        self._link = MemoryLink(await self.enter_async_context(background()), self._answered)
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        link = self._entered()
        try:
            return await super().__aexit__(*raised)
        except ExceptionGroup:
            if link.failure is None:
                raise
            raise link.failure from None

    def client(self, *, agent: str | None = None) -> Client:
        """A client of this pool; enter it like any other."""
        return Client(link=lambda: nullcontext(self._entered()), agent=agent)

    def _entered(self) -> MemoryLink:
        if self._link is None:
            raise RuntimeError("the pool is not entered: use `async with MockPool(...) as pool`")
        return self._link

    def _answered(self, envelope: Envelope, payload: bytes) -> MockMessages:
        if envelope.kind == "embed":
            self.embed_requests.append(embed := EmbedRequest.model_validate_json(payload))
            return embed_messages(lambda: self.embed(embed))
        self.requests.append(request := ChatRequest.model_validate_json(payload))
        return chat_messages(lambda: self.handler(request))
