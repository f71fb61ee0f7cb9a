"""Recognises each server's error for too many texts in one embedding call, and reads how many texts it accepts."""

from __future__ import annotations

import re

from tokenlane.routing.contract.errors import BadRequest


class TooManyTexts(BadRequest):
    """The model server accepts fewer texts in one call: send fewer or shorter texts at once.

    `most` is the number of texts that the model server accepts, if its error names it.
    """

    most: int | None = None


_LIMITS = (
    re.compile(rb"maximum allowed batch size (\d{1,6})"),  # text-embeddings-inference
    re.compile(rb"array with maximum length (\d{1,6})"),  # OpenAI
    re.compile(rb"[Bb]atch size.{0,40}not be larger than (\d{1,6})"),  # DashScope
    re.compile(rb"(?:[Aa]t most|more than) (\d{1,6}) (?:requests|texts|inputs|documents|items)"),  # Gemini, Cohere
    re.compile(rb"texts must be at most (\d{1,6})"),  # Cohere
    re.compile(rb"max(?:imum)?[ _](?:client[ _])?batch[ _]size (?:is |of |\()?(\d{1,6})"),
)
_MARKS = (
    b"max_tokens_per_request",  # OpenAI's code if all texts together are too long
    b"Too many inputs",  # Mistral
    b"Too many tokens overall",  # Mistral
)


def too_many_texts_error(body: bytes) -> TooManyTexts | None:
    """The error for a refusal with this body; None if it is not about too many texts."""
    match = next(filter(None, (pattern.search(body) for pattern in _LIMITS)), None)
    if match is None and not any(mark in body for mark in _MARKS):
        return None
    error = TooManyTexts()
    error.most = int(match[1]) or None if match else None
    return error
