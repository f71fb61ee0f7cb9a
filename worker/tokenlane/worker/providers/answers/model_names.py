"""Compares the model that an answer names with the requested model."""

from __future__ import annotations

import re

_SUFFIX = re.compile(
    r"@.*"  # a revision
    r"|-\d{4}.*"  # a dated snapshot
    r"|:latest"  # Ollama's default tag
)
_VARIANT = re.compile(r":(?:exacto|extended|floor|free|latest|nitro|online|thinking)$")
"""OpenRouter's ways to run one model, and Ollama's default tag."""


def same_model(named: str, asked: str) -> bool:
    """Whether both names mean the same model. In the name that a server returns it may add a revision, a date or the
    owner, and leave out the owner and the variant."""
    if named == asked:
        return True
    named, asked = named.casefold(), _VARIANT.sub("", asked.casefold())
    owner, _, name = named.rpartition("/")
    if owner and "/" not in asked:
        named = name
    elif not owner:
        asked = asked.rpartition("/")[2]
    if named.startswith(asked):
        return named == asked or _SUFFIX.fullmatch(named, len(asked)) is not None
    newest = asked.removesuffix("-latest")
    return newest != asked and named.startswith(newest) and re.fullmatch(r"-\d{4}.*", named[len(newest) :]) is not None
