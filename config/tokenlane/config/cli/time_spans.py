"""Parses the time spans that options take, such as `90s`, `10m` or `2h`."""

from __future__ import annotations

import re

import typer

_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(ms|s|m|min|h|d)")
_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def time_span(text: str | int) -> int:
    """Return a time span in milliseconds.

    Raises:
        typer.BadParameter: the text is not a number with a unit.
    """
    if isinstance(text, int):  # typer also parses the value that an earlier call returned
        return text
    if (span := _SPAN.fullmatch(text.strip())) is None:
        raise typer.BadParameter(f"{text!r} is not a time span: write a number and a unit, such as 90s, 10m or 2h.")
    return round(float(span[1]) * _MILLISECONDS[span[2]])
