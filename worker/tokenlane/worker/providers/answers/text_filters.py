"""Filters for an answer's text. They remove reasoning in `<think>` tags, everything from a stop word on, and the
repeated beginning of a continued answer.

A filter holds text back only until it can decide whether to remove it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol


class TextFilter(Protocol):
    """A filter of one answer. Its methods return a pair: text, and reasoning that was part of the text."""

    is_finished: bool
    """Whether the filter holds nothing back and will pass all further text unchanged, so that it is no longer
    needed."""

    def feed(self, text: str) -> tuple[str, str]:
        """Filter the next piece of text, and return the part that passes now."""
        ...

    def flush(self) -> tuple[str, str]:
        """At the end of the answer, return the text and reasoning that are still held back."""
        ...


def flush_filters(filters: Sequence[TextFilter]) -> tuple[str, str]:
    """Flush a chain of filters: what one filter releases passes through the filters after it."""
    text = reasoning = ""
    for each in filters:
        passed, thought = each.feed(text)
        held, more = each.flush()
        text, reasoning = passed + held, reasoning + thought + more
    return text, reasoning


class ThinkTagFilter:
    """Separates the reasoning at the beginning of an answer from its text, for servers that leave it there in a
    `<think>` tag.

    White space after either tag is dropped. A `<think>` elsewhere in the answer is text.
    """

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self) -> None:
        self.is_finished = False
        self._place: Literal["before", "inside", "after"] = "before"
        self._has_thought = False
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        self._held += text
        thought = ""
        if self._place == "before":
            self._look_for_tag()
        if self._place == "inside":
            thought = self._think()
        if self._place == "after":
            self._held = self._held.lstrip()
            self.is_finished = bool(self._held)
        if not self.is_finished:
            return "", thought
        passed, self._held = self._held, ""
        return passed, thought

    def flush(self) -> tuple[str, str]:
        return ("", self._held) if self._place == "inside" else (self._held, "")

    def _look_for_tag(self) -> None:
        begin = self._held.lstrip()
        if begin.startswith(self._OPEN):
            self._place, self._held = "inside", begin[len(self._OPEN) :]
        else:
            self.is_finished = not self._OPEN.startswith(begin)

    def _think(self) -> str:
        if not self._has_thought:
            self._held = self._held.lstrip()
        thought, close, after = self._held.partition(self._CLOSE)
        if close:
            self._place, self._held = "after", after
            return thought
        held = _possible_match_length(thought, (self._CLOSE,))
        thought, self._held = thought[: len(thought) - held], thought[len(thought) - held :]
        self._has_thought = self._has_thought or bool(thought)
        return thought


class StopWordFilter:
    """Ends the text before the first stop word, for servers that leave the stop word in the text or ignore stop words.

    The first stop word is the one that ends first, as for a server that checks after each token. If several end at the
    same character, the longest counts. `reached` is True from then on, and no more text passes.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.is_finished = False
        self.reached = False
        self._words = tuple(filter(None, words))
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        if self.reached:
            return "", ""
        text = self._held + text
        places = [(at + len(word), at) for word in self._words if (at := text.find(word)) >= 0]
        if places:
            self.reached, self._held = True, ""
            return text[: min(places)[1]], ""
        held = _possible_match_length(text, self._words)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], ""

    def flush(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return held, ""


class ContinuationFilter:
    """Removes the repeated beginning from a continued answer.

    Some servers begin a continued answer with the partial answer that they continue, and some drop or repeat the white
    space at its end. So the server gets the partial answer without trailing white space. This filter then removes the
    partial answer and its trailing white space from the beginning of the answer, if the server repeats them.

    A model may repeat itself, too, as in "ha ha ha". So a partial answer that is short or that is itself a repetition
    is never taken for repeated by the server.

    Args:
        begun: the partial answer.
        echoed: whether the server may repeat the partial answer.
    """

    _SHORTEST_ECHO = 8  # characters

    def __init__(self, begun: str, *, echoed: bool = True) -> None:
        self._echo = begun.rstrip()
        self._blank = begun[len(self._echo) :]
        self._matched = 0
        is_clear = len(self._echo) >= self._SHORTEST_ECHO and not (_is_repetition(self._echo) or _is_repetition(begun))
        self._in_echo = echoed and is_clear
        self.is_finished = not (self._in_echo or self._blank)

    def feed(self, text: str) -> tuple[str, str]:
        if self._in_echo:
            text = self._after_echo(text)
        return self._after_blank(text), ""

    def flush(self) -> tuple[str, str]:
        """An incomplete repetition is text: the answer only happens to begin with the same words."""
        held = self._echo[: self._matched] if self._in_echo else ""
        self._in_echo = False
        return self._after_blank(held), ""

    def _after_echo(self, text: str) -> str:
        wanted = self._echo[self._matched : self._matched + len(text)]
        if not text.startswith(wanted):
            self._in_echo = False
            return self._echo[: self._matched] + text
        self._matched += len(wanted)
        self._in_echo = self._matched < len(self._echo)
        return text[len(wanted) :]

    def _after_blank(self, text: str) -> str:
        if self._in_echo or not text:
            return text
        same = 0
        while same < min(len(text), len(self._blank)) and text[same] == self._blank[same]:
            same += 1
        self._blank = self._blank[same:] if same == len(text) else ""
        self.is_finished = not self._blank
        return text[same:]


def _is_repetition(text: str) -> bool:
    """Whether the text consists of a shorter text, twice or more often."""
    return text in (text + text)[1:-1]


def _possible_match_length(text: str, words: Sequence[str]) -> int:
    """How many characters at the end of `text` are one of the words or the beginning of one."""
    longest = min(max(map(len, words), default=0), len(text))
    return next(
        (size for size in range(longest, 0, -1) if text.endswith(tuple(w[:size] for w in words if len(w) >= size))), 0
    )
