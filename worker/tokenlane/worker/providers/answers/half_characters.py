"""Characters that a server cut in two.

JSON writes those beyond the first 65,536 as a pair of escapes, and a server that counts in UTF-16 may send the halves
in two events. No UTF-8 text can hold a half.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|.)", re.DOTALL)
_NO_CHARACTER = b"\\ufffd"


class HalfCharacters:
    """Puts the halves of one answer together."""

    def __init__(self) -> None:
        self._first = b""
        """The escape of a first half that waits for its second."""

    def mended(self, data: bytes) -> bytes | None:
        """The JSON text without halves: a first half goes to the event that has its second. None if it holds none."""
        found = _ESCAPE.finditer(data)
        mended, end, first, changed = bytearray(), 0, None, False
        for escape in found:
            value = int(escape[1], 16) if escape[1] else 0
            if first is not None and not (0xDC00 <= value < 0xE000 and escape.start() == end):
                changed = self._hold(mended, first)
            mended += data[end : escape.start()]
            end = escape.end()
            if 0xD800 <= value < 0xDC00:
                first = escape[0]
            elif not 0xDC00 <= value < 0xE000:
                mended += escape[0]
            elif first is not None:
                mended += first + escape[0]
            else:
                mended += self._first + escape[0] if self._first else _NO_CHARACTER
                self._first, changed = b"", True
            if not 0xD800 <= value < 0xDC00:
                first = None
        if first is not None:
            changed = self._hold(mended, first)
        return bytes(mended + data[end:]) if changed else None

    def _hold(self, mended: bytearray, first: bytes) -> bool:
        if self._first:
            mended += _NO_CHARACTER
        self._first = first
        return True
