"""Puts characters together that a server cut in two.

JSON writes those beyond the first 65,536 as a pair of escapes, and a server that counts in UTF-16 may send the halves
in two events. No UTF-8 text can hold a half.
"""

from __future__ import annotations

import re

_FIRST, _SECOND = rb"\\u[dD][89abAB][0-9A-Fa-f]{2}", rb"\\u[dD][c-fC-F][0-9A-Fa-f]{2}"
_ESCAPE = re.compile(b"(?P<first>%b)?(?P<second>%b)|(?P<alone>%b)|\\\\." % (_FIRST, _SECOND, _FIRST), re.DOTALL)
_NO_CHARACTER = b"\\ufffd"


class HalfCharacters:
    """Puts the halves of one answer together."""

    def __init__(self) -> None:
        self._held = b""
        """The escape of a first half that waits for its second."""

    def mended(self, data: bytes) -> bytes | None:
        """The JSON text without halves: a first half moves to the event that has its second. None if it holds none."""
        mended, halves = _ESCAPE.subn(self._mend, data)
        return mended if halves and mended != data else None

    def _mend(self, escape: re.Match[bytes]) -> bytes:
        if escape["first"] or not (escape["second"] or escape["alone"]):
            return escape[0]  # a whole character, or the escape of another
        held, self._held = self._held, escape["alone"] or b""
        if escape["second"]:
            return held + escape[0] if held else _NO_CHARACTER
        return _NO_CHARACTER if held else b""
