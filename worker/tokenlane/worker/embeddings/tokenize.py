"""The words of a text, as the fallback model knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator

_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]+")


def words_of(text: str) -> Iterator[str]:
    """Words in lower case, and what stands between them other than blanks. None holds a blank or ends a line."""
    for found in _WORD.finditer(text):
        yield found[0].lower()
