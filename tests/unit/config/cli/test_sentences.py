"""Numbers with their nouns, and marks at the ends of sentences."""

from __future__ import annotations

import pytest

from tokenlane.config.cli.sentences import counted, joined, sentence


@pytest.mark.parametrize(("number", "text"), [(0, "0 lanes wait"), (1, "1 lane waits"), (2, "2 lanes wait")])
def test_a_number_has_its_noun(number: int, text: str) -> None:
    """Only one thing is in the singular."""
    assert counted(number, "lane waits", "lanes wait") == text


@pytest.mark.parametrize(
    ("observed", "advice", "text"),
    [
        ("it is down", "start it", "it is down; start it"),
        ("it is down", "", "it is down"),
        ("is it up?", "start it", "is it up? Start it"),
        ("It is down.", "`run` it", "It is down. `run` it"),
        ("It is down.", "", "It is down."),
    ],
)
def test_no_two_marks_meet(observed: str, advice: str, text: str) -> None:
    """An observation that ends with a mark is a sentence, and its advice another."""
    assert joined(observed, advice) == text


def test_a_sentence_ends_with_one_mark() -> None:
    """A text that has its mark gets none."""
    assert [sentence(text) for text in ("a", "a.", "a?")] == ["a.", "a.", "a?"]
