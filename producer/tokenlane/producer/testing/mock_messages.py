"""From what a function says to the messages of a request, as a worker would send them: for a `MockPool`."""

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
Spoken: TypeAlias = AsyncGenerator[Deltas | Completed, None]


async def spoken(handler: Callable[[], Words | Awaitable[Words]]) -> Spoken:
    """A chat's messages: each piece of what the handler says, then the end."""
    said, position = handler(), 0
    words = await said if isinstance(said, Awaitable) else said
    async for piece in words if isinstance(words, AsyncIterable) else _each(words):
        deltas = [TokenDelta(text=piece) if isinstance(piece, str) else piece.model_copy()]
        yield Deltas(attempt=1, worker="", lane="", model="mock", first=position, deltas=deltas)
        position += 1
    yield _end(position, Usage(completion_tokens=position))


async def embedded(handler: Callable[[], Numbers | Awaitable[Numbers]]) -> Spoken:
    """The only message of what is embedded: its end, with the vectors."""
    said = handler()
    vectors = await said if isinstance(said, Awaitable) else said
    data = b"".join(pack(f"<{len(vector)}f", *vector) for vector in vectors)
    yield _end(1, Usage(), Vectors(dimensions=len(vectors[0]), data=b64encode(data).decode()))


async def _each(words: str | Iterable[str | TokenDelta]) -> AsyncGenerator[str | TokenDelta, None]:
    for piece in [words] if isinstance(words, str) else words:
        yield piece


def _end(position: int, usage: Usage, result: Vectors | None = None) -> Completed:
    return Completed(
        attempt=1, worker="", lane="", model="mock", first=position, end=position, usage=usage, result=result
    )
