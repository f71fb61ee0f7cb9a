"""Vectors for agents."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from dataclasses import dataclass, field
from typing import TypedDict

from pydantic import JsonValue

from tokenlane.routing.messages import Envelope, Priority, Vectors

from .courier import Courier

__all__ = ["EmbedOptions", "Embeddings", "embed"]


class EmbedOptions(TypedDict, total=False):
    """What may be asked of the model; what is left out is the back end's default."""

    model: str | None
    provider: str | None
    dimensions: int | None
    priority: Priority
    time_to_live_ms: int
    idempotency_key: str | None
    metadata: dict[str, JsonValue] | None


@dataclass(frozen=True)
class Embeddings:
    """A vector for each text, in their order. `dimensions`: how many numbers each has."""

    vectors: list[array[float]] = field(repr=False)
    dimensions: int
    model: str
    lane: str


async def embed(courier: Courier, envelope: Envelope, payload: bytes) -> Embeddings:
    """Submit an embed request, and wait for what comes of it."""
    async with courier.asking(envelope, payload) as exchange:
        result, answer = await exchange.result(), exchange.delivery.answer()
    assert isinstance(result, Vectors)
    data = array("f", b64decode(result.data))
    if sys.byteorder == "big":
        data.byteswap()
    vectors = [data[start : start + result.dimensions] for start in range(0, len(data), result.dimensions)]
    return Embeddings(vectors, result.dimensions, answer.model, answer.lane)
