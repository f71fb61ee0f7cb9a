"""Composes sentences: numbers with nouns, texts with full stops, observations with advice."""

from __future__ import annotations

_MARKS = (".", "?", "!")


def counted(number: int, singular: str, plural: str) -> str:
    """Return a number with the words that agree with it, such as `1 request waits` or `0 requests wait`."""
    return f"{number} {singular if number == 1 else plural}"


def sentence(text: str) -> str:
    """Return text with a full stop, unless it already ends with a full stop, question mark or exclamation mark."""
    return text if text.endswith(_MARKS) else f"{text}."


def joined(observed: str, advice: str) -> str:
    """Return an observation and its advice as one sentence, or as two if the observation is a complete sentence."""
    if observed.endswith(_MARKS):
        return f"{observed} {advice[:1].upper()}{advice[1:]}".rstrip()
    return "; ".join(filter(None, (observed, advice)))
