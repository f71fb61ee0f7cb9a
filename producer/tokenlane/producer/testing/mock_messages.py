"""Turns what a `MockPool`'s handlers return into the messages that a worker would publish."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import isfinite
from typing import Any, SupportsFloat, TypeAlias, TypeGuard

from pydantic import BaseModel

from tokenlane.routing.contract.answers import FinishReason, TokenDelta, Usage
from tokenlane.routing.contract.errors import Interrupted
from tokenlane.routing.contract.messages import Completed, Deltas
from tokenlane.routing.contract.results import Vectors


@dataclass(frozen=True)
class Failover:
    """A piece of an answer that stands for a failure: the answer breaks off, and another lane continues it.

    `lane`: the lane of the deltas that follow.
    """

    lane: str = "lane2"


@dataclass(frozen=True)
class Restart:
    """A piece of an answer that stands for a failure: the answer breaks off, and no lane can continue it.

    If the request has `on_interrupt="restart"`, the pieces that follow are a new answer from `lane`. If not, the agent
    gets `Interrupted` with the text so far.
    """

    lane: str = "lane2"


Piece: TypeAlias = str | TokenDelta | Failover | Restart
ChatResult: TypeAlias = str | Iterable[Piece] | AsyncIterable[Piece]
EmbedResult: TypeAlias = Iterable[Iterable[float]]
MockMessages: TypeAlias = AsyncGenerator[Deltas | Completed, None]


async def chat_messages(
    handler: Callable[[], ChatResult | Awaitable[ChatResult]], *, may_restart: bool = False
) -> MockMessages:
    """Yield a message for each piece of the handler's answer, and then the message that completes it.

    If the handler sets no finish reason, the last message has one more delta with a finish reason, as a worker's has.

    Args:
        may_restart: whether the request allows the answer to begin anew.

    Raises:
        Interrupted: the handler yielded a `Restart`, which the request does not allow.
        TypeError: the handler returned or yielded a value of another type. The error names the type, not the value.
    """
    returned, attempt = handler(), _Attempt()
    answer = await returned if isinstance(returned, Awaitable) else returned
    default_reason: FinishReason = "stop"
    has_reason = False
    async for piece in answer if isinstance(answer, AsyncIterable) else _pieces(answer):
        if isinstance(piece, Failover | Restart):
            if isinstance(piece, Restart):
                if not may_restart:
                    raise Interrupted("The answer broke off, and no lane can continue it.", lane=attempt.lane or None)
                default_reason, has_reason = "stop", False
            attempt = attempt.after(piece)
            continue
        delta = _delta(piece)
        default_reason = "tool_calls" if delta.tool_calls else default_reason
        has_reason = has_reason or delta.finish_reason is not None
        yield attempt.deltas(delta)
    last = [] if has_reason else [TokenDelta(finish_reason=default_reason)]
    yield attempt.completed(Usage(completion_tokens=attempt.position, attempts=attempt.number), last)


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
    yield _Attempt(position=1).completed(Usage(), result=Vectors(dimensions=dimensions[0], data=data))


async def _pieces(answer: str | Iterable[Piece]) -> AsyncGenerator[Piece, None]:
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
    expected = "a MockPool's handler returns text, or yields text, TokenDeltas, Failovers or Restarts"
    return TypeError(f"{expected}; this handler {verb} {type_of(value)}")


def _wrong_vectors(where: str, value: object) -> TypeError:
    expected = "a MockPool's embed handler returns a list of vectors, which are lists of numbers"
    return TypeError(f"{expected}; this handler returned {f'a list{where}' if where else ''}{type_of(value)}")


def type_of(value: object) -> str:
    """A value's type with its article, for errors that must not quote the value."""
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"


@dataclass
class _Attempt:
    """Makes the messages of one attempt. `position`: that of its next delta."""

    number: int = 1
    lane: str = ""
    position: int = 0
    begun_by: int = 0

    def after(self, failure: Failover | Restart) -> _Attempt:
        """The attempt that follows this one after a failure."""
        if isinstance(failure, Restart):
            return _Attempt(self.number + 1, failure.lane, begun_by=self.number + 1)
        return _Attempt(self.number + 1, failure.lane, self.position, self.begun_by)

    def deltas(self, delta: TokenDelta) -> Deltas:
        self.position += 1
        return Deltas(**self._place(), first=self.position - 1, deltas=[delta])

    def completed(self, usage: Usage, deltas: Sequence[TokenDelta] = (), result: Vectors | None = None) -> Completed:
        end = self.position + len(deltas)
        return Completed(**self._place(), first=self.position, end=end, usage=usage, deltas=list(deltas), result=result)

    def _place(self) -> dict[str, Any]:
        """The fields that all messages of the attempt share."""
        return {
            "attempt": self.number,
            "worker": "",
            "lane": self.lane,
            "model": "mock",
            "begun_by": self.begun_by,
        }
