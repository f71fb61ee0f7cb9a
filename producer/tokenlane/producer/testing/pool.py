"""A pool for tests of agents: no server, no worker, no retries, nothing to attach to; a function answers."""

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
from .mock_messages import Numbers, Spoken, Words, embedded, spoken

Handler: TypeAlias = Callable[[ChatRequest], Words | Awaitable[Words]]
EmbedHandler: TypeAlias = Callable[[EmbedRequest], Numbers | Awaitable[Numbers]]


def letters(request: EmbedRequest) -> list[list[float]]:
    """Vectors that tell how often each letter is in a text, and nothing else: alike texts have alike ones."""
    counts = ([1.0, *map(float, map(text.lower().count, string.ascii_lowercase))] for text in request.inputs)
    return [[number / math.hypot(*count) for number in count] for count in counts]


class MockPool(AsyncExitStack):
    """Has a handler answer: with text, its pieces or deltas, or an `LlmError`. Another error of it ends the block, as
    itself.

    Args:
        handler: a function or generator, plain or async. It is broken off when its request is cancelled or its time to
            live is over; a plain one only where it gives a piece.
        embed: gives the vectors of what is to be embedded. `embed_requests` are those.
    """

    def __init__(self, handler: Handler = lambda _: "", *, embed: EmbedHandler = letters) -> None:
        super().__init__()
        self.requests, self.handler = list[ChatRequest](), handler
        self.embed_requests, self.embed = list[EmbedRequest](), embed
        self._link: MemoryLink | None = None

    async def __aenter__(self) -> Self:
        self.callback(setattr, self, "_link", None)
        self._link = MemoryLink(await self.enter_async_context(background()), self._asked)
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
        """A client of this pool, to be entered like any other."""
        return Client(link=lambda: nullcontext(self._entered()), agent=agent)

    def _entered(self) -> MemoryLink:
        if self._link is None:
            raise RuntimeError("the pool is not entered: use `async with MockPool(...) as pool`")
        return self._link

    def _asked(self, envelope: Envelope, payload: bytes) -> Spoken:
        if envelope.kind == "embed":
            self.embed_requests.append(texts := EmbedRequest.model_validate_json(payload))
            return embedded(lambda: self.embed(texts))
        self.requests.append(request := ChatRequest.model_validate_json(payload))
        return spoken(lambda: self.handler(request))
