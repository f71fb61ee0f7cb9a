"""Turns what a `MockPool`'s handlers return into the messages that a worker would publish."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from math import isfinite
from typing import SupportsFloat, TypeAlias, TypeGuard

from pydantic import BaseModel

from tokenlane.routing.contract.answers import FinishReason, TokenDelta, Usage
from tokenlane.routing.contract.messages import Completed, Deltas
from tokenlane.routing.contract.results import Vectors

ChatResult: TypeAlias = str | Iterable[str | TokenDelta] | AsyncIterable[str | TokenDelta]
EmbedResult: TypeAlias = Iterable[Iterable[float]]
MockMessages: TypeAlias = AsyncGenerator[Deltas | Completed, None]


async def chat_messages(handler: Callable[[], ChatResult | Awaitable[ChatResult]]) -> MockMessages:
    """Yield a message for each piece of the handler's answer, and then the message that completes it.

    If the handler sets no finish reason, the last message has one more delta with a finish reason, as a worker's has.

    Raises:
        TypeError: the handler returned or yielded a value of another type. The error names the type, not the value.
    """
    returned, position = handler(), 0
    answer = await returned if isinstance(returned, Awaitable) else returned
    default_reason: FinishReason = "stop"
    has_reason = False
    async for piece in answer if isinstance(answer, AsyncIterable) else _pieces(answer):
        delta = _delta(piece)
        default_reason = "tool_calls" if delta.tool_calls else default_reason
        has_reason = has_reason or delta.finish_reason is not None
        yield Deltas(attempt=1, worker="", lane="", model="mock", first=position, deltas=[delta])
        position += 1
    last = [] if has_reason else [TokenDelta(finish_reason=default_reason)]
    yield _completed(position, Usage(completion_tokens=position), last)


async def embed_messages(
    handler: Callable[[], EmbedResult | Awaitable[EmbedResult]], number_of_texts: int
) -> MockMessages:
    """Yield the only message of an embed request: it completes the request and has the vectors.

    Raises:
        TypeError: the handler did not return vectors. The error names the type that it returned, not the value.
        ValueError: the vectors do not match the texts or each other, or have no numbers or infinite ones.
    """
    returned = handler()
    vectors = _vectors(await returned if isinstance(returned, Awaitable) else returned)
    dimensions = sorted({len(vector) for vector in vectors})
    wrong = ""
    if len(vectors) != number_of_texts:
        wrong = f"{len(vectors)} vectors for {number_of_texts} texts"
    elif 0 in dimensions:
        wrong = "an empty vector"
    elif len(dimensions) > 1:
        wrong = f"vectors of different lengths: {dimensions[0]} and {dimensions[-1]} numbers"
    elif not all(map(isfinite, (number for vector in vectors for number in vector))):
        wrong = "a number that is not finite as a float32"
    if wrong:
        raise ValueError(f"a MockPool's embed handler returns a vector for each text; this handler returned {wrong}")
    if sys.byteorder == "big":
        for vector in vectors:
            vector.byteswap()
    data = b64encode(b"".join(vectors)).decode()
    yield _completed(1, Usage(), result=Vectors(dimensions=dimensions[0], data=data))


async def _pieces(answer: str | Iterable[str | TokenDelta]) -> AsyncGenerator[str | TokenDelta, None]:
    returned: object = answer  # not everybody checks types
    if not _is_series(returned):
        raise _wrong_answer("returned", returned)
    for piece in [answer] if isinstance(answer, str) else answer:
        yield piece


def _delta(piece: object) -> TokenDelta:
    if isinstance(piece, str):
        return TokenDelta(text=piece)
    if not isinstance(piece, TokenDelta):
        raise _wrong_answer("yielded", piece)
    return piece.model_copy()


def _vectors(returned: object) -> list[array[float]]:
    if isinstance(returned, str) or not _is_series(returned):
        raise _wrong_vectors("", returned)
    return [_vector(vector) for vector in returned]


def _vector(numbers: object) -> array[float]:
    if isinstance(numbers, str) or not _is_series(numbers):
        raise _wrong_vectors(" with ", numbers)
    vector = array("f")
    for number in numbers:
        if not isinstance(number, SupportsFloat):
            raise _wrong_vectors(" with a vector with ", number)
        vector.append(float(number))
    return vector


def _is_series(value: object) -> TypeGuard[Iterable[object]]:
    """Whether iterating over a value yields its items in order, and not keys, fields, byte values or a set's items."""
    return isinstance(value, Iterable) and not isinstance(value, Mapping | BaseModel | bytes | Set)


def _wrong_answer(verb: str, value: object) -> TypeError:
    expected = "a MockPool's handler returns text, or yields text or TokenDeltas"
    return TypeError(f"{expected}; this handler {verb} {type_of(value)}")


def _wrong_vectors(where: str, value: object) -> TypeError:
    expected = "a MockPool's embed handler returns a list of vectors, which are lists of numbers"
    return TypeError(f"{expected}; this handler returned {f'a list{where}' if where else ''}{type_of(value)}")


def type_of(value: object) -> str:
    """A value's type with its article, for errors that must not quote the value."""
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"


def _completed(
    position: int, usage: Usage, deltas: Sequence[TokenDelta] = (), result: Vectors | None = None
) -> Completed:
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
