"""Filters for an answer's text: they take out reasoning in tags, stop words, and the echo of a partial answer.

A filter holds text back only until it can decide what that text is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol


class TextFilter(Protocol):
    """A filter. Its methods return text and reasoning."""

    over: bool
    """The filter holds nothing and will pass everything unchanged, so it can be removed."""

    def feed(self, text: str) -> tuple[str, str]:
        """Filter the next piece of text, and return what passes now."""
        ...

    def rest(self) -> tuple[str, str]:
        """The text and reasoning still held back at the end of the answer."""
        ...


def rest_of(filters: Sequence[TextFilter]) -> tuple[str, str]:
    """The text and reasoning that a chain of filters still holds back at the end of the answer."""
    text = reasoning = ""
    for each in filters:
        passed, thought = each.feed(text)
        held, more = each.rest()
        text, reasoning = passed + held, reasoning + thought + more
    return text, reasoning


class Thinking:
    """Takes out the reasoning from an answer that begins with `<think>`: servers without a reasoning parser leave it
    in.

    White space after either tag is dropped. A tag that is not at the beginning is text.
    """

    _OPEN, _CLOSE = "<think>", "</think>"

    def __init__(self) -> None:
        self.over = False
        self._place: Literal["before", "inside", "after"] = "before"
        self._begun = False
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
            self.over = bool(self._held)
        if not self.over:
            return "", thought
        passed, self._held = self._held, ""
        return passed, thought

    def rest(self) -> tuple[str, str]:
        return ("", self._held) if self._place == "inside" else (self._held, "")

    def _look_for_tag(self) -> None:
        begin = self._held.lstrip()
        if begin.startswith(self._OPEN):
            self._place, self._held = "inside", begin[len(self._OPEN) :]
        else:
            self.over = not self._OPEN.startswith(begin)

    def _think(self) -> str:
        if not self._begun:
            self._held = self._held.lstrip()
        thought, close, after = self._held.partition(self._CLOSE)
        if close:
            self._place, self._held = "after", after
            return thought
        held = _begun_at_end(thought, (self._CLOSE,))
        thought, self._held = thought[: len(thought) - held], thought[len(thought) - held :]
        self._begun = self._begun or bool(thought)
        return thought


class StopWords:
    """Ends the text before the first stop word, for servers that leave the stop word in the text or ignore stop words.

    The first stop word is the one that is complete first, as for a server that checks after each token; if several end
    at the same character, it is the longest. `reached`: a stop word was seen, and no more text passes.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.over = False
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
        held = _begun_at_end(text, self._words)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], ""

    def rest(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return held, ""


class Continuation:
    """Removes from a continued answer the text that it continues.

    Some servers repeat the text that they continue, and some drop or repeat the white space at its end. So the server
    gets that text without trailing white space, and this filter removes the text and the white space from the beginning
    of the answer if the server repeats them.

    Args:
        begun: the text that the answer continues.
        echoed: whether the server may repeat that text.
    """

    def __init__(self, begun: str, *, echoed: bool = True) -> None:
        self._echo = begun.rstrip()
        self._blank = begun[len(self._echo) :]
        self._matched = 0
        self._in_echo = echoed and bool(self._echo)
        self.over = not (self._in_echo or self._blank)

    def feed(self, text: str) -> tuple[str, str]:
        if self._in_echo:
            text = self._after_echo(text)
        return self._after_blank(text), ""

    def rest(self) -> tuple[str, str]:
        """An incomplete echo is text: the answer happens to begin with the same words."""
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
        self.over = not self._blank
        return text[same:]


def _begun_at_end(text: str, words: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of the words, or all of it."""
    longest = min(max(map(len, words), default=0), len(text))
    return next(
        (size for size in range(longest, 0, -1) if text.endswith(tuple(w[:size] for w in words if len(w) >= size))), 0
    )
