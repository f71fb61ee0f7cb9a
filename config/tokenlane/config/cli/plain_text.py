r"""Text that may be written to a terminal: what models, servers and other hosts say must not steer it.

Characters that steer are control characters, which move the cursor and set colours or the title; marks that turn the
direction of writing, such as U+202E, so that a name reads as another; separators of lines, characters that are not
seen at all, and halves of characters. Running text keeps the two joiners, which emoji and several scripts need.
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
    """Formats log lines, which may quote what servers and other hosts say, so that they steer no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return running_text(super().format(record))


def one_line(text: str) -> str:
    """One line: what others named must not steer, nor have lines of its own; a `?` is left of that."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def running_text(text: str) -> str:
    """Text with its line ends and tabs, without what steers."""
    return _STEERS.sub("", text)


def escaped(document: str, *, toml: bool = False) -> str:
    """The same JSON, or TOML, what steers written as escapes, which every reader of it understands."""

    def code(found: re.Match[str]) -> str:
        return f"\\U{ord(found[0]):08x}" if toml else json.dumps(found[0])[1:-1]

    return _STEERS.sub(code, document)


def json_text(document: Mapping[str, object], indent: int | None = None) -> str:
    """A document as JSON, safe for a terminal."""
    return escaped(json.dumps(document, indent=indent, ensure_ascii=False))
