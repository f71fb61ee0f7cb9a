"""Splits chunks of bytes into server-sent events."""

from __future__ import annotations

from typing import TypeAlias

from pydantic_core import from_json

from tokenlane.routing.contract.errors import UnreadableAnswer

MAX_EVENT_BYTES = 8 * 1024 * 1024
_LINE_BYTES = 64
"""The memory, in bytes, that Python needs for a line in addition to its text."""
_IGNORED_FIELDS = (b"", b"id", b"retry")
"""The names of comments (empty, since they begin with a colon) and of the fields for clients that reconnect."""
_STRANGE_BYTES = 2048


Event: TypeAlias = tuple[bytes, str]
"""The data and the name of an event. The data stays bytes, since the JSON parser decodes it. A plain tuple is created
ten times faster than a named one, and each token is an event."""
MESSAGE = "message"
"""The default name of an event."""


class SseReader:
    """Turns chunks of bytes into events.

    Lines end in LF, CR LF or CR. Comments and unknown fields are dropped, as the standard requires; `id` and `retry`
    are dropped too. Against the standard, a line that is a JSON object counts as an event, since servers send errors
    that way.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_bytes = max_event_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._after_cr = False
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._name = ""
        self.strange = b""
        """The first dropped lines, without comments."""

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes.

        Raises:
            UnreadableAnswer: an event or an unfinished line is larger than the limit.
        """
        size = len(chunk)
        # The fast path for nearly all chunks: one event of one line, with no unfinished event before it.
        if (
            chunk.find(b"\n") == size - 2
            and chunk.startswith(b"data: ")
            and chunk.endswith(b"\n")
            and size <= self._max_bytes
            and not (self._held or self._data or self._name or self._after_cr or b"\r" in chunk)
        ):
            return [(chunk[6:-2], MESSAGE)]
        events: list[Event] = []
        *lines, rest = self._lines(chunk)
        for line in lines:
            if line.startswith(b"{") and not self._data:
                self._check(len(line))
                events.append((line, self._name or MESSAGE))
                self._name = ""
            elif line:
                self._field(line)
            elif self._data:
                events.append(self._event())
            else:
                self._name = ""
        if rest:
            self._hold(rest)
        return events

    def rest(self) -> list[Event]:
        """The event that the end of the stream completes, since servers leave out the last blank line. An event whose
        data is not valid JSON was truncated and is dropped."""
        line = b"".join(self._held)
        if line.startswith(b"{") and not self._data:
            return [(line, self._name or MESSAGE)] if is_json(line) else []
        if line:
            self._field(line)
        if not self._data:
            return []
        data, name = self._event()
        return [(data, name)] if data.strip() == b"[DONE]" or is_json(data) else []

    def _lines(self, chunk: bytes) -> list[bytes]:
        """The complete lines, followed by the beginning of the next line."""
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_lf(chunk)
        lines = chunk.split(b"\n")
        if self._held and len(lines) > 1:
            lines[0] = b"".join([*self._held, lines[0]])
            self._held.clear()
            self._held_bytes = 0
        return lines

    def _with_lf(self, chunk: bytes) -> bytes:
        if not chunk:
            return chunk
        chunk = chunk.removeprefix(b"\n") if self._after_cr else chunk
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _hold(self, piece: bytes) -> None:
        self._held.append(piece)
        self._held_bytes += len(piece)
        self._check(self._held_bytes)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + _LINE_BYTES
        elif name == b"event":
            self._name = value.decode("utf-8", "replace")
        elif name not in _IGNORED_FIELDS and len(self.strange) < _STRANGE_BYTES:
            self.strange += line[:_STRANGE_BYTES] + b"\n"
        self._check(len(line))

    def _event(self) -> Event:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = data, self._name or MESSAGE
        self._data.clear()
        self._data_bytes = 0
        self._name = ""
        return event

    def _check(self, line_bytes: int) -> None:
        if max(line_bytes, self._data_bytes) > self._max_bytes:
            raise UnreadableAnswer(
                f"The model server sent an event larger than {self._max_bytes} bytes; is the endpoint a model server?"
            )


def is_json(data: bytes) -> bool:
    """Whether the data is one complete JSON value."""
    try:
        from_json(data)
    except (ValueError, RecursionError):
        return False
    return True
