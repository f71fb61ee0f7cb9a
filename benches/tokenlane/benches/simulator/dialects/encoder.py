"""The base of encoders, which turn an answer into a server's bytes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import ClassVar

from pydantic import JsonValue

from tokenlane.benches.simulator.model.answer import Ask, Part, SimulatedAnswer
from tokenlane.benches.simulator.model.refusals import Refused

_MARK = "\0"


class Encoder(ABC):
    """A path for chats. It makes bytes; a `Player` decides when, and whether, they are sent."""

    stream_type: ClassVar[str]
    late_head: ClassVar[bool] = False
    """Not even the headers are sent before the first token."""
    ping: ClassVar[bytes]
    """The bytes that keep a connection open without content."""
    malformed: ClassVar[bytes]
    """A piece with invalid JSON."""
    huge_start: ClassVar[bytes]
    """The start of an endless line."""

    @abstractmethod
    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Parse the body of a request.

        Raises:
            Refused: the request is not valid.
        """

    def opening(self, answer: SimulatedAnswer) -> bytes:
        """Return the bytes before the first piece."""
        return b""

    def first(self, answer: SimulatedAnswer, part: str | Part) -> bytes:
        """Return the first piece, with the bytes before it."""
        return self.opening(answer) + self.piece(answer, part)

    def piece(self, answer: SimulatedAnswer, part: str | Part) -> bytes:
        """Return a piece of the answer; empty if it waits for later pieces."""
        return self.frame(answer, Part(part) if isinstance(part, str) else part)

    def around(self, answer: SimulatedAnswer) -> tuple[bytes, bytes]:
        """Return the bytes before and after each piece of text."""
        before, _, after = self.frame(answer, Part(_MARK)).partition(quoted(_MARK))
        return before, after

    @abstractmethod
    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """A piece."""

    @abstractmethod
    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Return all bytes after the last piece."""

    @abstractmethod
    def whole(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the answer to a request without a stream."""

    @abstractmethod
    def failing(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """An error in the middle of an answer, to the stream's end.

        Args:
            error: what a script says; None for the server's own words.
        """

    def departed(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Return the bytes of a stream whose model was unloaded."""
        return self.failing(500, None)

    def headers(self, answer: SimulatedAnswer) -> dict[str, str]:
        """Return the headers of an answer without a stream."""
        return {}

    def refused(self, refused: Refused) -> Iterator[bytes] | None:
        """Return a refusal inside a stream; None where the server sends a status instead."""
        return None


@lru_cache(maxsize=8192)
def quoted(text: str) -> bytes:
    """Return text as a JSON string."""
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a pair
        return json.dumps(text).encode()
