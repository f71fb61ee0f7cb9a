"""The embedding model of the fallback lane: fastText, shipped in this package.

It has 32 dimensions and knows English as it is written about programs. It measures which words two texts share and does
not understand them. All workers of one version ship the same file, so their vectors can be compared.
docs/fallback-model/train.py made it from Python's documentation.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import math
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from importlib import resources
from itertools import islice
from typing import Protocol

from tokenlane.config.settings.values import FALLBACK_LANE, FALLBACK_PROVIDER, LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo

FALLBACK = LaneSettings(FALLBACK_LANE, FALLBACK_PROVIDER)
"""The lane that serves it."""
FALLBACK_MODEL = "fasttext-english-1"
_FILE = resources.files(__package__) / "english.bin"
_WORDS_AT_ONCE = 512
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]+")


class _Model(Protocol):
    def get_sentence_vector(self, text: str) -> Sequence[float]: ...

    def get_word_vector(self, word: str) -> Sequence[float]: ...


def is_installed() -> bool:
    """Whether this host has fastText, which the extra `fasttext` installs."""
    return importlib.util.find_spec("fasttext") is not None


class FastText(AbstractAsyncContextManager["FastText", None]):
    """The provider of the fallback lane. It needs no server, and loads the model for the first request."""

    @property
    def endpoint(self) -> str:
        """The hash of the model's file: workers with another file cannot serve the same lane."""
        return f"fasttext:{_digest()[:16]}"

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """One vector per input, of length 1. The same text always has the same vector."""
        return [await asyncio.to_thread(_vector, text) for text in inputs]

    async def models(self) -> list[ModelInfo]:
        """The only model."""
        return [ModelInfo(name=FALLBACK_MODEL, digest=f"sha256:{_digest()}", loaded=True, capabilities=("embed",))]

    async def capacity(self) -> int:
        """One text at a time; each takes microseconds."""
        return 1

    def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta, None]:
        """Refuse the request: this model only embeds.

        Raises:
            BadRequest: always.
        """
        raise BadRequest("The fallback model cannot chat: it only embeds.")

    async def aclose(self) -> None:
        """Nothing is open."""

    async def __aexit__(self, *error: object) -> None:
        """Nothing is open."""


def words_of(text: str) -> Iterator[str]:
    """The words of a text in lower case, with runs of punctuation as words, as in the model's vocabulary."""
    for word in _WORD.finditer(text):
        yield word[0].lower()


def _vector(text: str) -> list[float]:
    """The mean of the words' vectors, as fastText computes it, in pieces short enough not to block other threads."""
    model, total = _model(), None
    words = words_of(text.encode("utf-8", "replace").decode())  # fastText refuses half a surrogate pair
    while piece := list(islice(words, _WORDS_AT_ONCE)):
        vector = [len(piece) * float(number) for number in model.get_sentence_vector(" ".join(piece))]
        total = vector if total is None else [sum(pair) for pair in zip(total, vector, strict=True)]
    length = math.hypot(*total) if total else 0.0
    if total is None or length == 0:
        # A text without known words gets the vector that fastText has for the end of a line.
        total = [float(number) for number in model.get_word_vector("</s>")]
        length = math.hypot(*total)
    return [number / length for number in total]


@cache
def _model() -> _Model:
    import fasttext  # imported late, because it imports numpy

    with resources.as_file(_FILE) as path:
        model: _Model = fasttext.load_model(str(path))
    return model


@cache
def _digest() -> str:
    return hashlib.sha256(_FILE.read_bytes()).hexdigest()
