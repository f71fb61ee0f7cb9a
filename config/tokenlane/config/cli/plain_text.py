r"""Makes text from models, servers and other hosts safe to print, so that it cannot control the terminal.

Control characters move the cursor and change colours or the window's title. Direction marks such as U+202E make a name
look like another. Line separators, invisible characters and lone surrogates are removed too. `running_text` keeps the
two joiners that emoji and some scripts need.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping

_STEERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


class PlainFormatter(logging.Formatter):
    """Formats log lines so that text from servers and other hosts in them cannot control the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return running_text(super().format(record))


def one_line(text: str) -> str:
    """Return text as one line, with `?` for every character that is not printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def running_text(text: str) -> str:
    """Return text without the characters that control a terminal, except line ends and tabs."""
    return _STEERS.sub("", text)


def escaped(document: str, *, toml: bool = False) -> str:
    """Return a JSON or TOML document in which the characters that control a terminal are escaped."""

    def code(match: re.Match[str]) -> str:
        return f"\\U{ord(match[0]):08x}" if toml else json.dumps(match[0])[1:-1]

    return _STEERS.sub(code, document)


def json_text(document: Mapping[str, object], indent: int | None = None) -> str:
    """Return a document as JSON that is safe to print on a terminal."""
    return escaped(json.dumps(document, indent=indent, ensure_ascii=False))
