"""The step of a job that answers an embed request."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Sequence

from tokenlane.routing.errors import BadRequest, ProviderDown
from tokenlane.routing.messages import EmbedRequest, Vectors
from tokenlane.worker.providers import Embeds, LlmProvider

__all__ = ["MAX_VECTOR_BYTES", "embed", "packed"]

MAX_VECTOR_BYTES = 16 * 1024 * 1024
"""Of one request: its reply is one message."""


async def embed(provider: LlmProvider, request: EmbedRequest, model: str) -> Vectors:
    """The vectors of the request's texts, in their order.

    Raises:
        BadRequest: the back end cannot embed, or not as asked; or the vectors are too many for one reply.
        LlmError: as the provider raises.
    """
    if not isinstance(provider, Embeds):
        raise BadRequest(
            "Embeddings are not supported by this lane's provider: ask a lane with a model that can embed."
        )
    vectors = await provider.embed(request.inputs, model)
    if len(vectors) != len(request.inputs):
        raise ProviderDown("The back end answered with another number of vectors than texts.", retryable=False)
    if request.dimensions not in (None, len(vectors[0])):
        raise BadRequest(f"The model's vectors have {len(vectors[0])} dimensions, not {request.dimensions}.")
    return packed(vectors)


def packed(vectors: Sequence[Sequence[float]]) -> Vectors:
    """Vectors as they travel.

    Raises:
        BadRequest: they are too many for one reply.
    """
    dimensions = len(vectors[0])
    size = 4 * dimensions * len(vectors)
    if size > MAX_VECTOR_BYTES:
        most = MAX_VECTOR_BYTES // (4 * dimensions)
        raise BadRequest(f"{len(vectors)} vectors of {dimensions} are too much for one reply: ask for {most} at once.")
    data = array("f", (number for vector in vectors for number in vector))
    if sys.byteorder == "big":
        data.byteswap()
    return Vectors(dimensions=dimensions, data=b64encode(data.tobytes()).decode())
