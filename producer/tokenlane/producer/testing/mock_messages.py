"""Turns what a `MockPool`'s handler returns into the messages that a worker would publish."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from struct import pack
from typing import TypeAlias

from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.messages import Completed, Deltas
from tokenlane.routing.contract.results import Vectors

Words: TypeAlias = str | Iterable[str | TokenDelta] | AsyncIterable[str | TokenDelta]
Numbers: TypeAlias = Sequence[Sequence[float]]
MockMessages: TypeAlias = AsyncGenerator[Deltas | Completed, None]


async def chat_messages(handler: Callable[[], Words | Awaitable[Words]]) -> MockMessages:
    """A message for each piece of the handler's answer, and the end."""
    returned, position = handler(), 0
    words = await returned if isinstance(returned, Awaitable) else returned
    async for piece in words if isinstance(words, AsyncIterable) else _each(words):
        deltas = [TokenDelta(text=piece) if isinstance(piece, str) else piece.model_copy()]
        yield Deltas(attempt=1, worker="", lane="", model="mock", first=position, deltas=deltas)
        position += 1
    yield _end(position, Usage(completion_tokens=position))


async def embed_messages(handler: Callable[[], Numbers | Awaitable[Numbers]]) -> MockMessages:
    """The only message of an embed request: its end, with the vectors."""
    returned = handler()
    vectors = await returned if isinstance(returned, Awaitable) else returned
    data = b"".join(pack(f"<{len(vector)}f", *vector) for vector in vectors)
    yield _end(1, Usage(), Vectors(dimensions=len(vectors[0]), data=b64encode(data).decode()))


async def _each(words: str | Iterable[str | TokenDelta]) -> AsyncGenerator[str | TokenDelta, None]:
    for piece in [words] if isinstance(words, str) else words:
        yield piece


def _end(position: int, usage: Usage, result: Vectors | None = None) -> Completed:
    return Completed(
        attempt=1, worker="", lane="", model="mock", first=position, end=position, usage=usage, result=result
    )
