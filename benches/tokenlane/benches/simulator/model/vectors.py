"""Simulated embeddings: equal texts get equal vectors, and texts that share words are closer."""

from __future__ import annotations

import hashlib
import math
import re
from functools import lru_cache

_WORD = re.compile(r"\w+")


def embedding(model: str, text: str, dimensions: int, kept: int | None = None) -> list[float]:
    """A vector of length 1: the sum of one for each word and a little of one for the whole text.

    Args:
        kept: how many of its dimensions to keep; None: all.
    """
    total = [0.1 * number for number in _direction(model, "\0" + text, dimensions)]
    for word in _WORD.findall(text.lower()):
        for place, number in enumerate(_direction(model, word, dimensions)):
            total[place] += number
    total = total[:kept]
    length = math.sqrt(math.fsum(number * number for number in total))
    return [number / length for number in total]


@lru_cache(maxsize=4096)
def _direction(model: str, word: str, dimensions: int) -> tuple[float, ...]:
    """Return numbers between -1 and 1, odd multiples of 1/255, so that none is 0."""
    name = f"{model}\0{word}".encode("utf-8", "surrogatepass")
    return tuple((2 * byte - 255) / 255 for byte in hashlib.shake_128(name).digest(dimensions))
