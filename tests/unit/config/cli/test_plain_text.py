"""What may be written to a terminal."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.config.cli.plain_text import PlainFormatter, escaped, json_text, one_line, running_text

_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_nothing_that_steers_is_left() -> None:
    """Of all characters: no control character, no mark that turns the direction of writing, no separator of lines."""
    everything = [chr(code) for code in range(sys.maxunicode + 1)]
    steering = [
        letter
        for letter in everything
        if unicodedata.bidirectional(letter) in _TURNS or unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs")
    ]
    assert len(steering) > 2000
    assert running_text("".join(steering)) == "\t\n"
    assert set(one_line("".join(steering))) == {"?"}
    assert escaped("".join(steering)).isascii()


@pytest.mark.parametrize(
    "text", ["Grüße, 東京\u3000", "👩\u200d🚀", "\u0645\u06cc\u200c\u062e", "a\u00a0b", "[bold]", "1\n\t2"]
)
def test_what_people_write_is_left(text: str) -> None:
    """Scripts, emoji and their joiners, blanks of all widths."""
    assert running_text(text) == text
    assert escaped(text) == text


@given(st.dictionaries(st.text(), st.text()))
def test_json_stays_the_same(document: dict[str, str]) -> None:
    """What is escaped is read as what it was."""
    assert json.loads(json_text(document)) == document
    assert json.loads(json_text(document, indent=2)) == document


def test_a_log_line_steers_nothing() -> None:
    """Whatever it quotes."""
    record = logging.LogRecord("tokenlane", logging.WARNING, "x.py", 1, "lane %s", ("a\x1b[2J\u202eb",), None)
    assert PlainFormatter("%(levelname)s %(message)s").format(record) == "WARNING lane a[2Jb"
