"""Splits a stream into events. Its first bytes show whether it holds server-sent events or bare JSON values.

The content type does not count, since proxies and failing servers send a wrong one. A server that does not stream sends
one JSON document, with the same fields as an event.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenlane.worker.providers.parsing.ndjson import JsonValues
from tokenlane.worker.providers.parsing.sse import Event, SseReader

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"


class Frames:
    """Turns chunks of bytes into events. `feed` returns the events that a chunk completes.

    Raises:
        UnreadableAnswer: an event is larger than the limit.
    """

    def __init__(self) -> None:
        self.feed: Callable[[bytes], list[Event]] = self._begin
        self._read: SseReader | JsonValues = SseReader()
        self._head = b""
        self._marked = False

    @property
    def strange(self) -> bytes:
        """The first lines that were skipped because they are neither events nor JSON. Comments do not count."""
        return self._read.strange if isinstance(self._read, SseReader) else b""

    def rest(self) -> list[Event]:
        """The event that the end of the stream completes, since servers may leave out the last blank line. A truncated
        event is dropped."""
        return self._read.rest()

    def _begin(self, chunk: bytes) -> list[Event]:
        head = self._head + chunk
        if not self._marked:
            if len(head) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(head):
                self._head = head
                return []
            head = head.removeprefix(BYTE_ORDER_MARK)
            self._marked = True
        self._head = b""
        head = head.lstrip(_BLANK)
        if not head:
            return []
        if head.startswith((b"{", b"[")):
            self._read = JsonValues()
        self.feed = self._read.feed
        return self.feed(head)
