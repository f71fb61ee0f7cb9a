"""Vectors as providers return them: one an input, all of one length, each of Euclidean length 1."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Sequence
from math import hypot, inf, isfinite
from struct import error as NotNumbers
from struct import unpack
from typing import Any

from tokenlane.worker.providers.errors.http_errors import unreadable
from tokenlane.worker.providers.parsing.shape import EMBEDDINGS, wrong_field

from .reader import wrong_model

_CLOSE_TO_1 = 1e-6
"""What is as near as this is left as it came: most servers normalise themselves, in single precision."""


def vectors_in(page: Any, count: int, model: str, same_model: Callable[[str, str], bool]) -> list[list[float]]:
    """The vectors in a page of OpenAI's dialect or of Ollama's.

    Args:
        same_model: whether the model a page names is the one that was asked for, in that order.

    Raises:
        ModelNotFound: another model has made them.
        UnreadableAnswer: the page does not hold `count` usable vectors.
    """
    try:
        if (named := page.get("model")) and not same_model(named, model):
            raise wrong_model(named)
        return listed_vectors(page["data"], count) if "data" in page else unit_vectors(page["embeddings"], count)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise unreadable(wrong_field(page, EMBEDDINGS) or "it holds no vectors") from None


def listed_vectors(data: Sequence[dict[str, Any]], count: int) -> list[list[float]]:
    """The vectors of OpenAI's list, in the order of their `index`, which need not be the order they come in.

    Raises:
        UnreadableAnswer: they are not `count` vectors of one length.
        TypeError, KeyError: it is no such list.
    """
    places = [entry.get("index", place) for place, entry in enumerate(data)]
    if sorted(places) != list(range(count)):
        raise unreadable(f"it holds {len(data)} vectors for {count} inputs, or not one for each")
    vectors = dict(zip(places, (_numbers(entry["embedding"]) for entry in data), strict=True))
    return unit_vectors([vectors[place] for place in range(count)], count)


def _numbers(vector: str | Sequence[float]) -> Sequence[float]:
    """The numbers of one vector: some servers send base64 whatever they are asked for, of float32, little-endian."""
    if not isinstance(vector, str):
        return vector
    data = b64decode(vector, validate=True)
    try:
        return unpack(f"<{len(data) // 4}f", data)
    except NotNumbers:
        raise ValueError from None


def unit_vectors(vectors: Sequence[Sequence[float]], count: int) -> list[list[float]]:
    """The vectors, each with its length made 1.

    Raises:
        UnreadableAnswer: they are not `count` vectors of one length, or one of them has no direction.
        TypeError: they are no vectors at all.
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
    except OverflowError:  # a whole number too large to be another
        length = inf
    if not isfinite(length) or length == 0:
        raise unreadable("it holds a vector without direction: all of it is zero, or some of it is no finite number")
    if abs(length - 1) < _CLOSE_TO_1:
        return list(vector)
    return [part / length for part in vector]
