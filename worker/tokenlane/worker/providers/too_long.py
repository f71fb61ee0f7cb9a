"""How each server says that a request does not fit its model's context, and what numbers it names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenlane.routing.errors import ContextTooLong

__all__ = ["context_too_long", "too_long"]

# llama.cpp's type, OpenAI's code, then phrases: vLLM's two, llama.cpp's two, LM Studio's, Ollama's two, TGI's two.
_MARKS = (
    b"exceed_context_size_error",
    b"context_length_exceeded",
    b"maximum context length",
    b"cannot be greater than max_model_len",
    b"available context size",
    b"is too large to process. increase the physical batch size",
    b"fit in context length",
    b"prompt is longer than the context length",
    b"input length exceeds the context length",
    b"`max_new_tokens` must be <=",
    b"`inputs` must have less than",
)
_LIMIT = (
    re.compile(rb"maximum context length (?:is|of) (\d{1,9})"),
    re.compile(rb"max_model_len=(\d{1,9})"),
    re.compile(rb"available context size \((\d{1,9})"),
    re.compile(rb"current batch size: (\d{1,9})"),
    re.compile(rb"context length only supports (\d{1,9})"),
    re.compile(rb"must be <= (\d{1,9})"),
    re.compile(rb"must have less than (\d{1,9})"),
)
_GIVEN = (
    re.compile(rb"total of(?: at least)? (\d{1,9})"),
    re.compile(rb"(?:contains|resulted in)(?: at least)? (\d{1,9})"),
    re.compile(rb"requested (\d{1,9}) tokens"),
    re.compile(rb"max_tokens=(\d{1,9}) cannot"),
    re.compile(rb"(\d{1,9}) tokens\) exceeds"),
    re.compile(rb"input \((\d{1,9}) tokens\)"),
    re.compile(rb"input has (\d{1,9})"),
    re.compile(rb"Given: (\d{1,9})"),
)
"""The first that fits is the nearest to all of the request."""


def too_long(words: bytes) -> ContextTooLong | None:
    """The error, with the numbers that the server names, if that is what its words say."""
    if not any(mark in words for mark in _MARKS):
        return None
    return context_too_long(limit=_number(_LIMIT, words), tokens=_number(_GIVEN, words))


def context_too_long(
    limit: int | None, tokens: int | None, *, about: bool = False, of: str = "the model's context"
) -> ContextTooLong:
    """The error that names what is known.

    Args:
        limit: how many tokens fit.
        tokens: of the request.
        about: they are an estimate.
        of: whose limit it is.
    """
    has = "" if tokens is None else f" has {'about ' if about else ''}{tokens} tokens and"
    at_most = "" if limit is None else f" of {limit}"
    return ContextTooLong(f"The request{has} does not fit {of}{at_most}: shorten the messages or lower max_tokens.")


def _number(patterns: Iterable[re.Pattern[bytes]], words: bytes) -> int | None:
    return next((int(found[1]) for pattern in patterns if (found := pattern.search(words))), None)
