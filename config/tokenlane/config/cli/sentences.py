"""Puts sentences together: numbers with their nouns, texts with their full stops, observations with their advice."""

from __future__ import annotations

_MARKS = (".", "?", "!")


def counted(number: int, singular: str, plural: str) -> str:
    """Return the number with the words for it: `1 request waits`, `0 requests wait`."""
    return f"{number} {singular if number == 1 else plural}"


def sentence(text: str) -> str:
    """Return text with a full stop, unless it ends with a mark."""
    return text if text.endswith(_MARKS) else f"{text}."


def joined(observed: str, advice: str) -> str:
    """Return an observation and its advice as one text: one sentence, or two if the observation ends with a mark."""
    if observed.endswith(_MARKS):
        return f"{observed} {advice[:1].upper()}{advice[1:]}".rstrip()
    return "; ".join(filter(None, (observed, advice)))
