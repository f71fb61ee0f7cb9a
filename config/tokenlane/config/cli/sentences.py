"""Composes sentences: numbers with nouns, time spans with units, texts with full stops, observations with advice."""

from __future__ import annotations

_MARKS = (".", "?", "!")


def counted(number: int, singular: str, plural: str) -> str:
    """Return a number with the words that agree with it, such as `1 request waits` or `0 requests wait`."""
    return f"{number} {singular if number == 1 else plural}"


def age(milliseconds: int | None) -> str:
    """Return a time span as text, such as `0.3 s`, `12 s`, `5 min` or `2 h`; `-` for None."""
    if milliseconds is None:
        return "-"
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def sentence(text: str) -> str:
    """Return text with a full stop, unless it already ends with a full stop, question mark or exclamation mark."""
    return text if text.endswith(_MARKS) else f"{text}."


def joined(observed: str, advice: str) -> str:
    """Return an observation and its advice as one sentence, or as two if the observation is a complete sentence."""
    if observed.endswith(_MARKS):
        return f"{observed} {advice[:1].upper()}{advice[1:]}".rstrip()
    return "; ".join(filter(None, (observed, advice)))
