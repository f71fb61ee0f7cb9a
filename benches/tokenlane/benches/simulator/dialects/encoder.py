"""How a server encodes an answer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import ClassVar

from pydantic import JsonValue

from tokenlane.benches.simulator.model.answer import Answer, Ask, Part
from tokenlane.benches.simulator.model.refusals import Refused

_MARK = "\0"


class Encoder(ABC):
    """One way to chat with a server. It makes bytes; when, and whether, they are sent is not its business."""

    stream_type: ClassVar[str]
    late_head: ClassVar[bool] = False
    """Not even the headers are sent before the first token."""
    ping: ClassVar[bytes]
    """Keeps a connection open and says nothing."""
    malformed: ClassVar[bytes]
    """A piece that is no JSON."""
    huge_start: ClassVar[bytes]
    """How a line without end begins."""

    @abstractmethod
    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """What a request asks.

        Raises:
            Refused: it is not fit to be served.
        """

    def opening(self, answer: Answer) -> bytes:
        """What goes before the first piece."""
        return b""

    def first(self, answer: Answer, part: str | Part) -> bytes:
        """The first piece, and what goes before it."""
        return self.opening(answer) + self.piece(answer, part)

    def piece(self, answer: Answer, part: str | Part) -> bytes:
        """A piece of the answer; nothing if it is held back until later ones."""
        return self.frame(answer, Part(part) if isinstance(part, str) else part)

    def around(self, answer: Answer) -> tuple[bytes, bytes]:
        """What is before and after each piece of text."""
        before, _, after = self.frame(answer, Part(_MARK)).partition(quoted(_MARK))
        return before, after

    @abstractmethod
    def frame(self, answer: Answer, part: Part) -> bytes:
        """A piece."""

    @abstractmethod
    def ending(self, answer: Answer) -> Iterator[bytes]:
        """All that follows the last piece."""

    @abstractmethod
    def whole(self, answer: Answer) -> JsonValue:
        """The answer that is not streamed."""

    @abstractmethod
    def failing(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """An error in the middle of an answer, to the stream's end.

        Args:
            error: what a script says; None for the server's own words.
        """

    def departed(self, answer: Answer) -> Iterator[bytes]:
        """The model was taken away in the middle of an answer."""
        return self.failing(500, None)

    def headers(self, answer: Answer) -> dict[str, str]:
        """Of the answer that is not streamed."""
        return {}

    def refused(self, refused: Refused) -> Iterator[bytes] | None:
        """A refusal inside a stream; None where the server has a true status for it."""
        return None


@lru_cache(maxsize=8192)
def quoted(text: str) -> bytes:
    """Text as a JSON string."""
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half of a pair
        return json.dumps(text).encode()
