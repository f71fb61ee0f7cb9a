"""Compares the model that an answer names with the model that was asked for."""

from __future__ import annotations

import re

_MORE = re.compile(
    r"@.*"  # a revision
    r"|-\d{4}.*"  # a dated snapshot
    r"|:latest"  # Ollama's word for no tag
)
_VARIANT = re.compile(r":(?:exacto|extended|floor|free|latest|nitro|online|thinking)$")
"""Ways to run one model: OpenRouter's, and Ollama's word for no tag."""


def same_model(named: str, asked: str) -> bool:
    """Whether both names are of one model. Servers may add a revision, a dated snapshot or the owner, and may leave out
    the owner and the variant."""
    if named == asked:
        return True
    named, asked = named.casefold(), _VARIANT.sub("", asked.casefold())
    whose, _, name = named.rpartition("/")
    if whose and "/" not in asked:
        named = name
    elif not whose:
        asked = asked.rpartition("/")[2]
    if named.startswith(asked):
        return named == asked or _MORE.fullmatch(named, len(asked)) is not None
    newest = asked.removesuffix("-latest")
    return newest != asked and named.startswith(newest) and re.fullmatch(r"-\d{4}.*", named[len(newest) :]) is not None
