"""The model that is always there: fastText, made by `train.py` from Python's own documentation, in this package.

32 dimensions, English as it is written about programs. It tells what two texts have in common by their words; it does
not understand them. All workers of a version have the same file, so their vectors are of one space.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import cache
from importlib import resources
from itertools import islice
from types import TracebackType
from typing import Protocol, Self

from tokenlane.config.settings.values import FALLBACK_LANE, FALLBACK_PROVIDER, LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo

from .tokenize import words_of

FALLBACK = LaneSettings(FALLBACK_LANE, FALLBACK_PROVIDER)
"""The lane that serves it."""
FALLBACK_MODEL = "fasttext-english-1"
_FILE = "english.bin"
_WORDS_AT_ONCE = 512


class _Model(Protocol):
    def get_sentence_vector(self, text: str) -> Sequence[float]: ...

    def get_word_vector(self, word: str) -> Sequence[float]: ...


def is_installed() -> bool:
    """Whether tokenlane[fasttext] is."""
    return importlib.util.find_spec("fasttext") is not None


class FastText:
    """A provider of embeddings without a server. Its model is loaded when it is first asked."""

    @property
    def endpoint(self) -> str:
        """The model's file by its hash: workers with another one are of another space, and not of the same lane."""
        return f"fasttext:{_digest()[:16]}"

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """One vector an input, of length 1; for the same text always the same, whatever the text."""
        return [await asyncio.to_thread(_vector, text) for text in inputs]

    async def models(self) -> list[ModelInfo]:
        """The one model."""
        return [ModelInfo(name=FALLBACK_MODEL, digest=f"sha256:{_digest()}", loaded=True, capabilities=("embed",))]

    async def capacity(self) -> int:
        """One text at a time: it takes microseconds."""
        return 1

    def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta, None]:
        """Refused: it cannot chat.

        Raises:
            BadRequest: always.
        """
        raise BadRequest("The fallback model cannot chat: it has embeddings only.")

    async def aclose(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _vector(text: str) -> list[float]:
    """The mean of the words' vectors, as fastText takes it, over pieces short enough not to hold other threads up."""
    model, total = _model(), None
    for piece in _pieces(text):
        vector = [len(piece) * float(number) for number in model.get_sentence_vector(" ".join(piece))]
        total = vector if total is None else [sum(pair) for pair in zip(total, vector, strict=True)]
    length = math.hypot(*total) if total else 0.0
    if total is None or length == 0:
        # A text without words says as much as the end of a line.
        total = [float(number) for number in model.get_word_vector("</s>")]
        length = math.hypot(*total)
    return [number / length for number in total]


def _pieces(text: str) -> Iterator[list[str]]:
    words = words_of(text.encode("utf-8", "replace").decode())  # fastText takes no half characters
    while piece := list(islice(words, _WORDS_AT_ONCE)):
        yield piece


@cache
def _model() -> _Model:
    import fasttext  # here, because it brings numpy along

    with resources.as_file(resources.files(__package__) / _FILE) as path:
        model: _Model = fasttext.load_model(str(path))
    return model


@cache
def _digest() -> str:
    return hashlib.sha256((resources.files(__package__) / _FILE).read_bytes()).hexdigest()
