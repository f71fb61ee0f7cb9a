"""Joins characters that a server split between two events.

JSON escapes a character above U+FFFF as a pair of surrogates. A server that counts in UTF-16 may send the two halves in
two events, but UTF-8 text cannot contain half a pair.
"""

from __future__ import annotations

import re

_FIRST, _SECOND = rb"\\u[dD][89abAB][0-9A-Fa-f]{2}", rb"\\u[dD][c-fC-F][0-9A-Fa-f]{2}"
_ESCAPE = re.compile(b"(?P<first>%b)?(?P<second>%b)|(?P<alone>%b)|\\\\." % (_FIRST, _SECOND, _FIRST), re.DOTALL)
_REPLACEMENT = b"\\ufffd"


class HalfCharacters:
    """Joins the split characters of one answer."""

    def __init__(self) -> None:
        self._held = b""
        """The escaped first half of a pair, until the second half arrives."""

    def mended(self, data: bytes) -> bytes | None:
        """The JSON text of an event with its characters joined: a first half moves to the event with the second half.
        None if the text contains no half, or nothing changes."""
        mended, halves = _ESCAPE.subn(self._mend, data)
        return mended if halves and mended != data else None

    def _mend(self, escape: re.Match[bytes]) -> bytes:
        if escape["first"] or not (escape["second"] or escape["alone"]):
            return escape[0]  # a whole pair, or another kind of escape
        held, self._held = self._held, escape["alone"] or b""
        if escape["second"]:
            return held + escape[0] if held else _REPLACEMENT
        return _REPLACEMENT if held else b""
