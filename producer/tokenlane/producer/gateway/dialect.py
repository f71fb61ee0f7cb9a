"""What a dialect of the gateway consists of: it reads questions, and writes answers, events and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from pydantic import JsonValue

from tokenlane.routing.contract.answers import Answer, TokenDelta

from .failures import Failure
from .question import Begun, Question

JsonBody: TypeAlias = Mapping[str, JsonValue]


class AnswerWriter(Protocol):
    """Writes one answer as events. Each method returns the bytes to send, which may be empty."""

    def begin(self) -> bytes:
        """The events before the first delta. Called once, when the pool has accepted the request."""
        ...

    def ping(self, waiting: str) -> bytes:
        """An event that keeps the connection open.

        Args:
            waiting: why the request waits, on one line; empty if it does not wait.
        """
        ...

    def deltas(self, deltas: Sequence[TokenDelta]) -> bytes:
        """The events for the next deltas, one or more. Called after `begin`."""
        ...

    def end(self, answer: Answer) -> bytes:
        """The events after the last delta."""
        ...

    def fail(self, failure: Failure) -> bytes:
        """The event that ends an answer which failed. `begin` may not have been called."""
        ...


class Dialect(Protocol):
    """One API of the gateway that answers chats."""

    def read(self, body: JsonBody) -> Question:
        """Translate the body of a request.

        Raises:
            Refused: the body is not valid, or asks for what the pool cannot do.
        """
        ...

    def writer(self, question: Question, begun: Begun) -> AnswerWriter:
        """The writer of a streamed answer."""
        ...

    def whole(self, question: Question, begun: Begun, answer: Answer) -> object:
        """A complete answer, as JSON."""
        ...

    def error(self, failure: Failure) -> object:
        """The body of a response that says what failed, as JSON."""
        ...
