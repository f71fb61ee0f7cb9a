"""What is taken out of an answer's text is taken out wherever the text was cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenlane.worker.providers.answers.text_filters import (
    ContinuationFilter,
    StopWordFilter,
    TextFilter,
    ThinkTagFilter,
    flush_filters,
)

TEXT = st.text(alphabet="ab \n<>/think", max_size=30)
CUTS = st.lists(st.integers(0, 80), max_size=12)


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    places = sorted({0, *(min(place, len(text)) for place in cuts), len(text)})
    return [text[start:end] for start, end in pairwise(places)]


def through(filters: list[TextFilter], pieces: Sequence[str]) -> tuple[str, str]:
    """All that passes, text and reasoning."""
    text = reasoning = ""
    for piece in pieces:
        for each in filters:
            piece, thought = each.feed(piece)
            reasoning += thought
        text += piece
        filters = [each for each in filters if not each.is_finished]
    rest, thought = flush_filters(filters)
    return text + rest, reasoning + thought


@given(st.text(alphabet="abc \n", max_size=20), st.text(alphabet="abc \n", max_size=20), CUTS)
@example("", "The capital of France", [14])
def test_any_split_of_any_echo_gives_the_continuation_alone(begun: str, more: str, cuts: list[int]) -> None:
    """A server that repeats what it continues, cut anywhere, gives what one gives that does not."""
    begun = f"The capital of {begun}"
    blank = begun[len(begun.rstrip()) :]
    repeated = begun.rstrip() + blank + more
    assert through([ContinuationFilter(begun)], cut(repeated, cuts)) == (more, "")


@given(st.text(min_size=1, max_size=20), st.text(max_size=20), CUTS)
def test_without_an_echo_nothing_is_lost(begun: str, more: str, cuts: list[int]) -> None:
    """What does not begin as the begun text does passes whole, but for white space that is there already."""
    blank = begun[len(begun.rstrip()) :]
    for echoed in (True, False):
        if echoed and len(begun.rstrip()) > 7 and more.startswith(begun.rstrip()):
            continue
        text, _ = through([ContinuationFilter(begun, echoed=echoed)], cut(more, cuts))
        assert more.endswith(text)
        assert blank.startswith(more[: len(more) - len(text)])


@given(st.text(alphabet="ab \n", min_size=1, max_size=7), st.integers(1, 20), st.integers(1, 40), CUTS)
@example("ha", 1, 1, [])
@example("1", 100, 200, [*range(80)])
@example("| a |\n", 2, 2, [])
def test_a_model_may_repeat_itself(word: str, begun: int, more: int, cuts: list[int]) -> None:
    """Nothing of a text that is one word again and again is taken for an echo, wherever it broke off."""
    blank = len(word * begun) - len((word * begun).rstrip())
    pieces = cut((word * begun)[-blank or len(word * begun) :] + word * more, cuts)
    assert through([ContinuationFilter(word * begun)], pieces) == (word * more, "")


@pytest.mark.parametrize(
    ("begun", "came", "text"),
    [
        ("The capital of ", "The capital of France", "France"),
        ("The capital of ", "The capital of", ""),
        ("The capital of ", " France", "France"),
        ("The capital of ", "France", "France"),
        ("The capital of", " France", " France"),
        ("a\n\n", "\nb", "b"),
        ("The capital", "The cap", "The cap"),
        ("ha ha ha ha ", "ha ha ha ha ha", "ha ha ha ha ha"),
        ("", "x", "x"),
        ("  ", " x", "x"),
    ],
)
def test_white_space_comes_once(begun: str, came: str, text: str) -> None:
    """What stands at the end of the begun text and comes again is dropped; a part of an echo is none."""
    assert through([ContinuationFilter(begun)], list(came)) == (text, "")


def test_after_an_echo_nothing_is_held() -> None:
    """Once it is decided what came, pieces pass as they come."""
    each = ContinuationFilter("abcdefgh ")
    assert [each.feed(piece) for piece in ("a", "bcdefgh c", "ab ")] == [("", ""), ("c", ""), ("ab ", "")]
    assert each.is_finished


@given(TEXT, TEXT, CUTS)
def test_reasoning_in_tags(thought: str, text: str, cuts: list[int]) -> None:
    """Whatever stands between the tags is reasoning, and what follows is text, however it was cut."""
    thought = thought.replace("</think>", "")
    said = f"<think>{thought}</think>{text}"
    whole = through([ThinkTagFilter()], [said])
    assert through([ThinkTagFilter()], cut(said, cuts)) == whole
    before, _, after = said.removeprefix("<think>").partition("</think>")
    assert whole == (after.lstrip(), before.lstrip())


@given(TEXT, CUTS)
def test_text_without_a_tag_passes(text: str, cuts: list[int]) -> None:
    """An answer that does not begin with the tag is text, the tag further on too."""
    if not text.lstrip().startswith("<think>"):
        assert through([ThinkTagFilter()], cut(text, cuts)) == (text, "")


def test_an_answer_that_is_never_done_thinking() -> None:
    """It is all reasoning, half a closing tag too; half an opening one is text."""
    assert through([ThinkTagFilter()], ["<think", "> a", " b</th"]) == ("", "a b</th")
    assert through([ThinkTagFilter()], ["<think"]) == ("<think", "")


@given(st.lists(st.text(alphabet="ab", max_size=3), min_size=1, max_size=3), TEXT, CUTS)
def test_the_text_ends_before_the_first_stop_word(stops: list[str], text: str, cuts: list[int]) -> None:
    """However it was cut, the text ends before the stop word that is complete first; without one nothing is lost."""
    ends = [end for end in range(len(text) + 1) if any(stop and text[:end].endswith(stop) for stop in stops)]
    passed = text
    if ends:
        longest = max(len(stop) for stop in stops if stop and text[: ends[0]].endswith(stop))
        passed = text[: ends[0] - longest]
    assert through([StopWordFilter(stops)], cut(text, cuts)) == (passed, "")


def test_only_what_may_be_a_stop_word_is_held() -> None:
    """Pieces pass as they come, but for an end that may begin a stop word."""
    each = StopWordFilter(["END"])
    assert [each.feed(piece)[0] for piece in ("a", "bE", "c", "N", "EN", "D", "d")] == ["a", "b", "Ec", "N", "", "", ""]
    assert each.reached
    assert each.flush() == ("", "")


def test_filters_in_a_row() -> None:
    """Reasoning is taken out first, then the stop word and what follows it."""
    pieces = list("<think>hm END</think>so it is END of it")
    assert through([ThinkTagFilter(), StopWordFilter(["END"])], pieces) == ("so it is ", "hm END")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("words", [["STOP!"], ["STOP!", "TO", "P! "]])
def test_no_answer_breaks_off_in_a_stop_word(words: list[str], size: int) -> None:
    """The beginning of a stop word is held back, so wherever an answer breaks off, the model server that continues the
    delivered part writes the whole word, and the answer ends where an undisturbed one does."""
    text = "one STOP! two"
    (undisturbed, _), *_ = [StopWordFilter(words).feed(text)]
    for cut in range(len(text) + 1):
        before, after = StopWordFilter(words), StopWordFilter(words)
        pieces = [text[at : min(at + size, cut)] for at in range(0, cut, size)]
        delivered = "".join(before.feed(piece)[0] for piece in pieces)
        if not before.reached:
            delivered += after.feed(text[len(delivered) :])[0]
        assert delivered == undisturbed
