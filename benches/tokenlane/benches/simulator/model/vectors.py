"""Simulated embeddings: equal texts get equal vectors, and texts that share words get similar vectors."""

from __future__ import annotations

import hashlib
import math
import re
from functools import lru_cache

_WORD = re.compile(r"\w+")


def embedding(model: str, text: str, dimensions: int, length: int | None = None) -> list[float]:
    """Return the embedding of a text, normalised: the sum of a vector for each word and a short one for the whole text.

    Args:
        dimensions: the number of dimensions of the model.
        length: how many dimensions to return; None: all of them.
    """
    total = [0.1 * number for number in _direction(model, "\0" + text, dimensions)]
    for word in _WORD.findall(text.lower()):
        for place, number in enumerate(_direction(model, word, dimensions)):
            total[place] += number
    total = total[:length]
    norm = math.sqrt(math.fsum(number * number for number in total))
    return [number / norm for number in total]


@lru_cache(maxsize=4096)
def _direction(model: str, word: str, dimensions: int) -> tuple[float, ...]:
    """Return a vector for a word. Its numbers are odd multiples of 1/255 between -1 and 1, so none of them is 0."""
    name = f"{model}\0{word}".encode("utf-8", "surrogatepass")
    return tuple((2 * byte - 255) / 255 for byte in hashlib.shake_128(name).digest(dimensions))
