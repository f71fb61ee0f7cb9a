"""The embedding model of the fallback lane: fastText, shipped in this package.

It has 32 dimensions, and its vocabulary is the English of software documentation. Its vectors show which words two
texts share, not what the texts mean. All workers of one version use the same file, so their vectors can be compared.
docs/fallback-model/train.py trained it on Python's documentation.
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

FALLBACK_SETTINGS = LaneSettings(FALLBACK_LANE, FALLBACK_PROVIDER)
"""The settings of the fallback lane."""
FALLBACK_MODEL = "fasttext-english-1"
_FILE = resources.files(__package__) / "english.bin"
_WORDS_AT_ONCE = 512
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]+")


class _Model(Protocol):
    def get_sentence_vector(self, text: str) -> Sequence[float]: ...

    def get_word_vector(self, word: str) -> Sequence[float]: ...


def is_fasttext_installed() -> bool:
    """Whether this host has fastText, which the extra `fasttext` installs."""
    return importlib.util.find_spec("fasttext") is not None


class FastText(AbstractAsyncContextManager["FastText", None]):
    """The provider of the fallback lane. It needs no model server, and loads the model at the first request."""

    @property
    def endpoint(self) -> str:
        """The hash of the model's file, so that workers with different files cannot serve the same lane."""
        return f"fasttext:{_digest()[:16]}"

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """Return one vector per input, of length 1. Equal texts get equal vectors."""
        return [await asyncio.to_thread(_vector, text) for text in inputs]

    async def models(self) -> list[ModelInfo]:
        """List the only model."""
        return [ModelInfo(name=FALLBACK_MODEL, digest=f"sha256:{_digest()}", loaded=True, capabilities=("embed",))]

    async def capacity(self) -> int:
        """One request at a time, because a text takes only microseconds."""
        return 1

    def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta, None]:
        """Refuse the request: this model only embeds.

        Raises:
            BadRequest: for every request.
        """
        raise BadRequest("The fallback model cannot chat: it only embeds.")

    async def aclose(self) -> None:
        """Do nothing: there is no connection to close."""

    async def __aexit__(self, *error: object) -> None:
        """Do nothing: there is no connection to close."""


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text in lower case. A run of punctuation is a word, as in the model's vocabulary."""
    for word in _WORD.finditer(text):
        yield word[0].lower()


def _vector(text: str) -> list[float]:
    """The mean of the words' vectors, scaled to length 1, in pieces short enough not to block other threads."""
    model, total = _model(), None
    words = words_of(text.encode("utf-8", "replace").decode())  # fastText rejects a lone surrogate
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
