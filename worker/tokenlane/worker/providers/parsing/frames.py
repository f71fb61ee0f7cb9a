"""Splits a stream into events by its content, not its content type: server-sent events, or JSON without framing.

Proxies, and servers that fail early, send the one under the other's name; a server that does not stream answers with
one page of JSON. All hold the same values.
"""

from __future__ import annotations

from collections.abc import Callable

from tokenlane.worker.providers.parsing.ndjson import JsonValues
from tokenlane.worker.providers.parsing.sse import Event, SseReader

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"


class Frames:
    """Turns chunks of bytes into events. `feed` gives those that a chunk completes.

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
        """The first of what was passed over because it is neither; not for what keeps a connection open."""
        return self._read.strange if isinstance(self._read, SseReader) else b""

    def rest(self) -> list[Event]:
        """The event that the end of the stream completes: servers leave out its last blank line. One that was cut off
        in the middle is none."""
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
