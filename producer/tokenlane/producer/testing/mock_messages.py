"""Turns what a `MockPool`'s handler returns into the messages that a worker would publish."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from struct import pack
from typing import TypeAlias

from pydantic import BaseModel

from tokenlane.routing.contract.answers import FinishReason, TokenDelta, Usage
from tokenlane.routing.contract.messages import Completed, Deltas
from tokenlane.routing.contract.results import Vectors

Words: TypeAlias = str | Iterable[str | TokenDelta] | AsyncIterable[str | TokenDelta]
Numbers: TypeAlias = Sequence[Sequence[float]]
MockMessages: TypeAlias = AsyncGenerator[Deltas | Completed, None]


async def chat_messages(handler: Callable[[], Words | Awaitable[Words]]) -> MockMessages:
    """A message for each piece of the handler's answer, and the end. If the handler gives no finish reason, the end has
    one more delta with it, as a worker's last delta.

    Raises:
        TypeError: the handler returned or yielded something else. The message names only its type.
    """
    returned, position = handler(), 0
    words = await returned if isinstance(returned, Awaitable) else returned
    usual: FinishReason = "stop"
    finished = False
    async for piece in words if isinstance(words, AsyncIterable) else _each(words):
        delta = _delta(piece)
        usual = "tool_calls" if delta.tool_calls else usual
        finished = finished or delta.finish_reason is not None
        yield Deltas(attempt=1, worker="", lane="", model="mock", first=position, deltas=[delta])
        position += 1
    last = [] if finished else [TokenDelta(finish_reason=usual)]
    yield _end(position, Usage(completion_tokens=position), last)


async def embed_messages(handler: Callable[[], Numbers | Awaitable[Numbers]]) -> MockMessages:
    """The only message of an embed request: its end, with the vectors."""
    returned = handler()
    vectors = await returned if isinstance(returned, Awaitable) else returned
    data = b"".join(pack(f"<{len(vector)}f", *vector) for vector in vectors)
    yield _end(1, Usage(), result=Vectors(dimensions=len(vectors[0]), data=b64encode(data).decode()))


async def _each(words: str | Iterable[str | TokenDelta]) -> AsyncGenerator[str | TokenDelta, None]:
    given: object = words  # not everybody checks types
    # Iterating over these would give keys, fields, numbers, or text in any order.
    if isinstance(given, Mapping | BaseModel | bytes | Set) or not isinstance(given, Iterable):
        raise _wrong("returned", given)
    for piece in [words] if isinstance(words, str) else words:
        yield piece


def _delta(piece: object) -> TokenDelta:
    if isinstance(piece, str):
        return TokenDelta(text=piece)
    if not isinstance(piece, TokenDelta):
        raise _wrong("yielded", piece)
    return piece.model_copy()


def _wrong(verb: str, given: object) -> TypeError:
    name = type(given).__name__
    kind = "None" if given is None else f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"
    return TypeError(f"a MockPool's handler returns text, or yields text or TokenDeltas; this handler {verb} {kind}")


def _end(position: int, usage: Usage, deltas: Sequence[TokenDelta] = (), result: Vectors | None = None) -> Completed:
    return Completed(
        attempt=1,
        worker="",
        lane="",
        model="mock",
        first=position,
        end=position + len(deltas),
        usage=usage,
        deltas=list(deltas),
        result=result,
    )
