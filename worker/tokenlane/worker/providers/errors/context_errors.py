"""Recognises each server's error for a request that does not fit the context, and reads the numbers of tokens in it."""

from __future__ import annotations

import re
from typing import Literal

from tokenlane.routing.contract.errors import ContextTooLong

# llama.cpp's type, OpenAI's code, then phrases: vLLM's two, llama.cpp's two, LM Studio's, Ollama's two, TGI's two,
# SGLang's, Anthropic's and Gemini's.
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
    b"longer than the model's context length",
    b"prompt is too long:",
    b"exceeds the maximum number of tokens allowed",
)
_LIMIT = (
    re.compile(rb"maximum context length (?:is|of) (\d{1,9})"),
    re.compile(rb"(\d{1,9}) maximum context length"),
    re.compile(rb"configured limit of (\d{1,9})"),
    re.compile(rb"max_model_len=(\d{1,9})"),
    re.compile(rb"available context size \((\d{1,9})"),
    re.compile(rb"current batch size: (\d{1,9})"),
    re.compile(rb"context length only supports (\d{1,9})"),
    re.compile(rb"must be <= (\d{1,9})"),
    re.compile(rb"must have less than (\d{1,9})"),
    re.compile(rb"model's context length \((\d{1,9})"),
    re.compile(rb"> (\d{1,9}) maximum"),
    re.compile(rb"tokens allowed \((\d{1,9})"),
)
_TOKENS = (
    # TGI and some versions of vLLM name the tokens of the prompt and max_tokens separately: they are added up.
    re.compile(rb"Given: (\d{1,9})(?: `inputs` tokens and (\d{1,9}))?"),
    re.compile(rb"is too large: (\d{1,9}).{0,99}your request has (\d{1,9}) input"),
    re.compile(rb"total of(?: at least)? (\d{1,9})"),
    re.compile(rb"(?:contains|resulted in)(?: at least)? (\d{1,9})"),
    re.compile(rb"requested (\d{1,9}) tokens"),
    re.compile(rb"max_tokens=(\d{1,9}) cannot"),
    re.compile(rb"(\d{1,9}) tokens\) exceeds"),
    re.compile(rb"input \((\d{1,9}) tokens\)"),
    re.compile(rb"input has (\d{1,9})"),
    re.compile(rb"too long: (\d{1,9})"),
    re.compile(rb"token count \((\d{1,9})"),
)
"""In this order, the first match is nearest to the tokens of the whole request. vLLM stops counting at the limit."""


def context_error(body: bytes) -> ContextTooLong | None:
    """The error for a refusal with this body, with the numbers in it; None if it is not about the context."""
    if not any(mark in body for mark in _MARKS):
        return None
    limit = next((int(match[1]) for pattern in _LIMIT if (match := pattern.search(body))), None)
    tokens = next(filter(None, (pattern.search(body) for pattern in _TOKENS)), None)
    if tokens is None:
        return context_too_long(limit, None)
    known: Literal["", "at least"] = "at least" if b" at least " in tokens[0] else ""
    return context_too_long(limit, sum(int(number) for number in tokens.groups() if number), known=known)


def context_too_long(
    limit: int | None,
    tokens: int | None,
    *,
    known: Literal["", "about", "at least"] = "",
    limit_name: str = "the model's context",
) -> ContextTooLong:
    """The error for a request that does not fit, with the numbers that are known.

    Args:
        limit: the largest number of tokens.
        tokens: the number of tokens in the request.
        known: how precise `tokens` is; "" if it is exact.
        limit_name: what sets the limit.
    """
    no_further = " (the server stopped counting)" if known == "at least" else ""
    has = "" if tokens is None else " ".join(["", "has", *known.split(), str(tokens), f"tokens{no_further} and"])
    at_most = "" if limit is None else f" of {limit}"
    return ContextTooLong(
        f"The request{has} does not fit {limit_name}{at_most}: shorten the messages or lower max_tokens."
    )
