"""A pool for tests of agents: no server, no worker, no retries, nothing to attach to; a function answers."""

from __future__ import annotations

import asyncio
import math
import string
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, nullcontext
from struct import pack
from typing import Self, TypeAlias

from tokenlane.routing.errors import LlmError, RequestCancelled, RequestLost
from tokenlane.routing.lanes import LaneView
from tokenlane.routing.messages import (
    ChatRequest,
    Completed,
    Deltas,
    EmbedRequest,
    Envelope,
    TokenDelta,
    Usage,
    Vectors,
)
from tokenlane.routing.tasks import background

from .client import Client
from .courier import Courier
from .delivery import Delivery
from .exchange import Exchange

__all__ = ["EmbedHandler", "Handler", "MockPool", "letters"]

Handler: TypeAlias = Callable[[ChatRequest], str | Iterable[str | TokenDelta]]
EmbedHandler: TypeAlias = Callable[[EmbedRequest], Sequence[Sequence[float]]]


def letters(request: EmbedRequest) -> list[list[float]]:
    """Vectors that tell how often each letter is in a text, and nothing else: alike texts have alike ones."""
    counts = ([1.0, *map(float, map(text.lower().count, string.ascii_lowercase))] for text in request.inputs)
    return [[number / math.hypot(*count) for number in count] for count in counts]


class MockPool(AsyncExitStack):
    """Has a handler answer: with text, its pieces or deltas, or an `LlmError`. Others end the block, in a group.

    Args:
        embed: gives the vectors of what is to be embedded. `embed_requests` are those.
    """

    def __init__(self, handler: Handler = lambda _: "", *, embed: EmbedHandler = letters) -> None:
        super().__init__()
        self.requests, self.handler = list[ChatRequest](), handler
        self.embed_requests, self.embed = list[EmbedRequest](), embed

    async def __aenter__(self) -> Self:
        self.tasks = await self.enter_async_context(background())
        return self

    def client(self, *, agent: str | None = None) -> Client:
        """A client of this pool, to be entered like any other."""
        client = Client("mock://", agent=agent)
        client._connect = lambda _: nullcontext(_Courier(self))
        return client


class _Courier(Courier):
    def __init__(self, pool: MockPool) -> None:  # and nothing of a real one's: there is no pool behind it
        self._mock, self.exchanges = pool, {}

    async def open(self, envelope: Envelope, payload: bytes, idempotency_key: str | None = None) -> Exchange:
        exchange = Exchange(envelope.id, envelope.role, None, Delivery(envelope.id), float("inf"), 0)
        self.exchanges[envelope.id] = [exchange]
        if envelope.kind == "embed":
            self._mock.embed_requests.append(texts := EmbedRequest.model_validate_json(payload))
            self._mock.tasks.create_task(self._embed(texts, exchange))
        else:
            self._mock.requests.append(request := ChatRequest.model_validate_json(payload))
            self._mock.tasks.create_task(self._answer(request, exchange))
        return exchange

    async def attach(self, request_id: str, position: int = 0) -> Exchange:
        raise RequestLost("a MockPool has no requests to attach to")

    async def lanes(self) -> tuple[LaneView, ...]:
        return ()

    async def cancel(self, request_id: str) -> bool:
        self.abandon(self.exchanges[request_id][0])
        return True

    def abandon(self, exchange: Exchange, *, everywhere: bool = False) -> None:
        exchange.delivery.fail(RequestCancelled())
        exchange.changed.set()

    async def _answer(self, request: ChatRequest, exchange: Exchange) -> None:
        delivery = exchange.delivery
        try:
            pieces = self._mock.handler(request)
            for piece in [pieces] if isinstance(pieces, str) else pieces:
                deltas = [TokenDelta(text=piece) if isinstance(piece, str) else piece.model_copy()]
                said = Deltas(attempt=1, worker="", lane="", model="mock", first=delivery.position, deltas=deltas)
                delivery.receive(said)
                exchange.changed.set()
                await asyncio.sleep(0)  # so that its reader may cancel it
                if delivery.ended:
                    return
            delivery.complete(Usage(completion_tokens=delivery.position))
        except LlmError as error:
            delivery.fail(error)
        exchange.changed.set()

    async def _embed(self, request: EmbedRequest, exchange: Exchange) -> None:
        try:
            vectors = self._mock.embed(request)
            data = b"".join(pack(f"<{len(vector)}f", *vector) for vector in vectors)
            result = Vectors(dimensions=len(vectors[0]), data=b64encode(data).decode())
            whole = {"attempt": 1, "worker": "", "lane": "", "first": 0, "end": 1, "usage": Usage()}
            exchange.delivery.receive(Completed.model_validate({**whole, "model": "mock", "result": result}))
        except LlmError as error:
            exchange.delivery.fail(error)
        exchange.changed.set()
