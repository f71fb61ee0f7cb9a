"""Embed requests: their options, and the vectors that the pool returns."""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from pydantic import JsonValue

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.contract.requests import CommonOptions
from tokenlane.routing.contract.results import Vectors
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.lanes.fallback_lane import is_fallback

from .compose import compose_embed, list_of_texts, refuse_unknown
from .link.link import Link, open_request
from .link.open_request import OpenRequest


class EmbedOptions(CommonOptions, total=False):
    """The options of an embed request.

    Attributes:
        dimensions: the number of numbers that each vector must have.
        fallback: "error" to fail rather than to take vectors from the small fallback model.
    """

    dimensions: int | None
    fallback: Literal["error"] | None


@dataclass(frozen=True)
class Embeddings:
    """The vectors of an embed request: one for each text, in the order of the texts, with Euclidean length 1.

    Attributes:
        vectors: arrays of float32, which numpy reads without a copy.
        dimensions: the number of numbers in each vector.
        model: the model that made the vectors. Compare only vectors from the same model: store this name with an index
            and pass it as the option `model`, since a role's route may later lead to another model.
        is_fallback: whether the small fallback model made the vectors, because no lane could embed.
        metadata: the request's metadata.
    """

    request_id: str
    vectors: list[array[float]] = field(repr=False)
    dimensions: int
    model: str
    lane: str
    usage: Usage
    metadata: dict[str, JsonValue] | None = field(default=None, repr=False)

    @property
    def is_fallback(self) -> bool:
        return is_fallback(self.lane)

    @property
    def vector(self) -> array[float]:
        """The vector of a request with a single text.

        Raises:
            ValueError: the request had several texts.
        """
        (vector,) = self.vectors
        return vector


async def embed(
    link: Link,
    texts: str | Sequence[str],
    options: EmbedOptions,
    *,
    role: str,
    agent: str,
    quota: Quota | None = None,
    while_open: Callable[[OpenRequest], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
) -> Embeddings:
    """Have texts embedded; the context manager `meanwhile` is entered while the request is open.

    Raises:
        TypeError: an option does not exist.
        LlmError: as `Client.embed`.
    """
    refuse_unknown(options, EmbedOptions, "agent", "quota")
    fields = {"id": new_id(), "role": role, "inputs": list_of_texts(texts), **options}

    composed = partial(compose_embed, fields, agent=agent, client=link.client, quota=quota)
    async with open_request(link, composed, options.get("idempotency_key")) as request, while_open(request):
        answer, result = await request.finish(), await request.result()
    assert isinstance(result, Vectors)
    data = array("f", b64decode(result.data))
    if sys.byteorder == "big":
        data.byteswap()
    vectors = [data[start : start + result.dimensions] for start in range(0, len(data), result.dimensions)]
    return Embeddings(
        request.id, vectors, result.dimensions, answer.model, answer.lane, answer.usage, options.get("metadata")
    )
