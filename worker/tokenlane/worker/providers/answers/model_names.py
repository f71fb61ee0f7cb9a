"""Compares the model that an answer names with the requested model."""

from __future__ import annotations

import re

_SUFFIX = re.compile(
    r"@.*"  # a revision
    r"|-\d{4}.*"  # a dated snapshot
    r"|:latest"  # Ollama's default tag
)
_VARIANT = re.compile(r":(?:exacto|extended|floor|free|latest|nitro|online|thinking)$")
"""OpenRouter's suffixes for variants of a model, and Ollama's default tag."""


def same_model(named: str, requested: str) -> bool:
    """Whether both names mean the same model. The name in an answer may have an additional revision, date or owner, and
    may lack the owner and the variant.

    Args:
        named: the name in the answer.
        requested: the name in the request.
    """
    if named == requested:
        return True
    named, requested = named.casefold(), _VARIANT.sub("", requested.casefold())
    owner, _, name = named.rpartition("/")
    if owner and "/" not in requested:
        named = name
    elif not owner:
        requested = requested.rpartition("/")[2]
    if named.startswith(requested):
        return named == requested or _SUFFIX.fullmatch(named, len(requested)) is not None
    newest = requested.removesuffix("-latest")
    return (
        newest != requested and named.startswith(newest) and re.fullmatch(r"-\d{4}.*", named[len(newest) :]) is not None
    )
