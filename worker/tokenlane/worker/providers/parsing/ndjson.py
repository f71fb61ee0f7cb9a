"""Splits chunks of bytes into lines, and lines into JSON values."""

from __future__ import annotations

from tokenlane.routing.contract.errors import UnreadableAnswer
from tokenlane.worker.providers.parsing.sse import MESSAGE, Event, is_json

MAX_LINE_BYTES = 8 * 1024 * 1024


class LineReader:
    """Turns chunks of bytes into complete lines. They stay bytes, since the JSON parser decodes them.

    Lines end in LF or CR LF. Empty lines are dropped. A last line without a line ending is left to `rest`.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_line_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes.

        Raises:
            UnreadableAnswer: a line, complete or not, is larger than the limit.
        """
        size = len(chunk)
        if 1 < size <= self._max_bytes and chunk.find(b"\n") == size - 1 and not (self._held or b"\r" in chunk):
            return [chunk[:-1]]  # the fast path: nearly every chunk is one complete line
        *lines, last = chunk.split(b"\n")
        if lines and self._held:
            lines[0] = b"".join([*self._held, lines[0]])
            self._held.clear()
            self._held_bytes = 0
        if last:
            self._held.append(last)
            self._held_bytes += len(last)
        return self._checked([line.removesuffix(b"\r") for line in lines])

    def rest(self) -> bytes:
        """The last line, whose line ending has not arrived."""
        return b"".join(self._held)

    def _checked(self, lines: list[bytes]) -> list[bytes]:
        if max(self._held_bytes, *map(len, lines), 0) > self._max_bytes:
            raise _too_large(self._max_bytes)
        return [line for line in lines if line]


class JsonValues:
    """Turns chunks of bytes into JSON values: either one value per line, or one value of many lines, the last of which
    begins with the closing bracket. The values are not checked."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lines = LineReader(max_bytes)
        self._value_per_line = False
        self._document: list[bytes] = []
        self._document_bytes = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The values that `chunk` completes.

        Raises:
            UnreadableAnswer: a value is larger than the limit.
        """
        lines = self._lines.feed(chunk)
        if self._value_per_line:
            return [(line, MESSAGE) for line in lines]
        return [event for line in lines for event in self._first(line)]

    def _first(self, line: bytes) -> list[Event]:
        """The values that this line completes, while it is not yet clear whether each line holds one value."""
        if self._value_per_line or (not self._document and line.rstrip().endswith((b"}", b"]"))):
            self._value_per_line = True
            return [(line, MESSAGE)]
        if self._document and line.startswith(b"{"):
            self._value_per_line = True
            return [(self._whole_document(), MESSAGE), (line, MESSAGE)]
        self._document.append(line)
        self._document_bytes += len(line) + 1
        if self._document_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        return [(self._whole_document(), MESSAGE)] if line.startswith((b"}", b"]")) else []

    def rest(self) -> list[Event]:
        """The value that the end of the stream completes."""
        self._document.append(self._lines.rest())
        left = self._whole_document().strip()
        return [(left, MESSAGE)] if left == b"[DONE]" or is_json(left) else []

    def _whole_document(self) -> bytes:
        document = b"\n".join(self._document)
        self._document, self._document_bytes = [], 0
        return document


def _too_large(limit: int) -> UnreadableAnswer:
    return UnreadableAnswer(f"The model server sent a line larger than {limit} bytes; is the endpoint a model server?")
