"""Reads the vectors in a server's answer, checks them, and scales each to Euclidean length 1."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Sequence
from math import hypot, inf, isfinite
from struct import error as UnpackError
from struct import unpack
from typing import Any

from tokenlane.worker.providers.errors.http_errors import unreadable
from tokenlane.worker.providers.parsing.json_shape import EMBEDDINGS, wrong_field

from .reader import wrong_model

_CLOSE_TO_1 = 1e-6
"""A vector whose length is this close to 1 is not scaled, since most servers normalise in single precision."""


def vectors_in(document: Any, count: int, model: str, same_model: Callable[[str, str], bool]) -> list[list[float]]:
    """The vectors in an answer of OpenAI's or Ollama's dialect.

    Args:
        same_model: whether the model named in the answer (first argument) is the requested model (second argument).

    Raises:
        ModelNotFound: another model made the vectors.
        UnreadableAnswer: the answer does not contain `count` usable vectors.
    """
    try:
        if (named := document.get("model")) and not same_model(named, model):
            raise wrong_model(named)
        return (
            listed_vectors(document["data"], count)
            if "data" in document
            else unit_vectors(document["embeddings"], count)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise unreadable(wrong_field(document, EMBEDDINGS) or "it holds no vectors") from None


def listed_vectors(data: Sequence[dict[str, Any]], count: int) -> list[list[float]]:
    """The vectors of OpenAI's list, sorted by their `index`.

    Raises:
        UnreadableAnswer: the list does not contain `count` vectors with the same number of dimensions.
        TypeError, KeyError: it is not a list of vectors.
    """
    places = [entry.get("index", place) for place, entry in enumerate(data)]
    if sorted(places) != list(range(count)):
        raise unreadable(f"it has {len(data)} vectors for {count} inputs, or their indexes are wrong")
    vectors = dict(zip(places, (_numbers(entry["embedding"]) for entry in data), strict=True))
    return unit_vectors([vectors[place] for place in range(count)], count)


def _numbers(vector: str | Sequence[float]) -> Sequence[float]:
    """The numbers of one vector. Some servers always send it as base64 of little-endian float32."""
    if not isinstance(vector, str):
        return vector
    data = b64decode(vector, validate=True)
    try:
        return unpack(f"<{len(data) // 4}f", data)
    except UnpackError:
        raise ValueError from None


def unit_vectors(vectors: Sequence[Sequence[float]], count: int) -> list[list[float]]:
    """The vectors, each scaled to Euclidean length 1.

    Raises:
        UnreadableAnswer: they are not `count` vectors with the same number of dimensions, or a vector is all zeros.
        TypeError: they are not vectors.
    """
    if len(vectors) != count:
        raise unreadable(f"it holds {len(vectors)} vectors for {count} inputs")
    dimensions = {len(vector) for vector in vectors}
    if len(dimensions) > 1 or 0 in dimensions:
        raise unreadable(f"it holds vectors of {sorted(dimensions)[:8]} dimensions")
    return [_unit(vector) for vector in vectors]


def _unit(vector: Sequence[float]) -> list[float]:
    try:
        length = hypot(*vector)
    except OverflowError:  # an integer too large for a float
        length = inf
    if not isfinite(length) or length == 0:
        raise unreadable("it has a vector that is all zeros or contains a number that is not finite")
    if abs(length - 1) < _CLOSE_TO_1:
        return list(vector)
    return [part / length for part in vector]
