"""The base class of encoders, which turn an answer into the bytes that a server sends."""

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
    """The encoding of chats on one path. A `Player` decides when the bytes are sent."""

    stream_type: ClassVar[str]
    late_head: ClassVar[bool] = False
    """Whether the server sends no headers before the first token."""
    ping: ClassVar[bytes]
    """The bytes that keep a connection open without content."""
    malformed: ClassVar[bytes]
    """The bytes of a piece with invalid JSON."""
    huge_start: ClassVar[bytes]
    """The first bytes of an endless line."""

    @abstractmethod
    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Parse the body of a request.

        Raises:
            Refused: the request is not valid.
        """

    def of(self, answer: SimulatedAnswer) -> Encoder:
        """Return the encoder of this answer alone, if its pieces depend on those before; else this encoder."""
        return self

    def opening(self, answer: SimulatedAnswer) -> bytes:
        """Return the bytes before the first piece."""
        return b""

    def first_piece(self, answer: SimulatedAnswer, part: str | Part) -> bytes:
        """Return the first piece and the bytes before it."""
        return self.opening(answer) + self.piece(answer, part)

    def piece(self, answer: SimulatedAnswer, part: str | Part) -> bytes:
        """Return a piece of the answer; empty if the server sends it together with a later piece."""
        return self.frame(answer, Part(part) if isinstance(part, str) else part)

    def text_frame(self, answer: SimulatedAnswer) -> tuple[bytes, bytes] | None:
        """Return the bytes before and after each piece of text; None if they differ from piece to piece."""
        before, _, after = self.frame(answer, Part(_MARK)).partition(quoted(_MARK))
        return before, after

    @abstractmethod
    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """Return one piece of the answer."""

    @abstractmethod
    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Return all bytes after the last piece."""

    @abstractmethod
    def unstreamed_body(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the body of an answer without a stream."""

    @abstractmethod
    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Return the bytes of an error in the middle of a stream, and of the end of the stream.

        Args:
            error: the error in the fault script; None: a default in the shape of the server's errors.
        """

    def unloaded(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Return the bytes that end a stream when its model is unloaded."""
        return self.error_bytes(500, None)

    def headers(self, answer: SimulatedAnswer) -> dict[str, str]:
        """Return the headers of an answer without a stream."""
        return {}

    def refusal_bytes(self, refused: Refused) -> Iterator[bytes] | None:
        """Return a refusal in a stream; None if the server sends an error status instead."""
        return None


@lru_cache(maxsize=8192)
def quoted(text: str) -> bytes:
    """Return text as a JSON string."""
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # the text contains half of a surrogate pair
        return json.dumps(text).encode()
