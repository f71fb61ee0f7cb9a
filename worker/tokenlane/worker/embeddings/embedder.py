"""The step of a job that answers an embed request: from the cache what is there, from the back end what is not."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Sequence
from functools import partial

from tokenlane.routing.contract.errors import BadRequest, ContextTooLong, LlmError, ProviderDown
from tokenlane.routing.contract.requests import EmbedRequest
from tokenlane.routing.contract.results import Vectors
from tokenlane.routing.contract.worker_report import Hits
from tokenlane.routing.decide.candidates import served_name
from tokenlane.worker.providers import Embeds, LlmProvider

from .batches import Batches
from .fallback_model import FastText
from .sealed_rows import Origin
from .vector_cache import VectorCache

MAX_VECTOR_BYTES = 16 * 1024 * 1024
"""Of one request: its reply is one message."""
_BUILDS_HOLD_S = 60.0
_FLOAT_BYTES = 4


class Embedder:
    """Answers the embed requests of one lane. Somebody must `run` it.

    Args:
        name: the provider's.
        cache: what this host has computed before; None: nothing is kept.
    """

    def __init__(self, provider: LlmProvider, name: str, cache: VectorCache | None = None) -> None:
        self._cache = cache
        self._batches = Batches(provider) if isinstance(provider, Embeds) else None
        self._builds = _Builds(provider)
        self._name = name
        self._is_fallback = isinstance(provider, FastText)

    async def run(self) -> None:
        """Make the calls to the back end, until cancelled."""
        if self._batches is not None:
            await self._batches.run()

    def hits(self) -> Hits:
        """What the cache was asked for so far; nothing without one."""
        cache = self._cache
        return Hits() if cache is None else Hits(found=cache.hits, asked=cache.hits + cache.misses)

    def check(self, request: EmbedRequest) -> None:
        """Refuse what is not to be served by this lane.

        Raises:
            ProviderDown: it is the fallback's, and the request wants none.
        """
        if self._is_fallback and request.fallback == "error":
            raise ProviderDown(
                "no lane can embed but that of the fallback model, which the request does not want: start a worker on "
                "a back end with a model that embeds, or ask without `fallback`",
                retryable=False,
            )

    async def embed(self, request: EmbedRequest, model: str, *, alone: bool = False) -> Vectors:
        """The vectors of the request's texts, in their order.

        Args:
            alone: share no call with other requests, because this one may have made one fail.

        Raises:
            BadRequest: the back end cannot embed, or not as asked; or the vectors are too many for one reply.
            LlmError: as the provider raises.
        """
        vectors = await self._vectors(request, model, alone)
        return _packed(vectors, len(vectors[0]) // _FLOAT_BYTES)

    async def _vectors(self, request: EmbedRequest, model: str, alone: bool) -> Sequence[bytes]:
        texts, ask = request.inputs, partial(self._asked, model, dimensions=request.dimensions, alone=alone)
        if self._cache is None:
            return await ask(texts)
        parameters = "" if request.dimensions is None else json.dumps({"dimensions": request.dimensions})
        origin = Origin(self._name, model, await self._builds.of(model), parameters)
        known = await self._cache.get(origin, texts)
        lacking = list(dict.fromkeys(text for text, vector in zip(texts, known, strict=True) if vector is None))
        fresh = dict(zip(lacking, await ask(lacking), strict=True))
        vectors = [vector or fresh[text] for text, vector in zip(texts, known, strict=True)]
        if len({len(vector) for vector in vectors}) > 1:
            # Another model goes by this name now, and its server did not tell.
            lacking = list(dict.fromkeys(texts))
            fresh = dict(zip(lacking, await ask(lacking), strict=True))
            vectors = [fresh[text] for text in texts]
        self._cache.put(origin, lacking, [fresh[text] for text in lacking])
        return vectors

    async def _asked(self, model: str, texts: Sequence[str], *, dimensions: int | None, alone: bool) -> Sequence[bytes]:
        if self._batches is None:
            raise BadRequest(
                "Embeddings are not supported by this lane's provider: ask a lane with a model that can embed."
            )
        try:
            vectors = await self._batches.vectors(model, texts, dimensions=dimensions, alone=alone)
        except ContextTooLong as error:
            longest = max(map(len, texts))
            raise ContextTooLong(
                f"{error.message.partition(':')[0]}; the longest of {len(texts)} texts has {longest} characters: split "
                "it, and embed the parts",
                detail=error.detail,
            ) from None
        found = {len(vector) // _FLOAT_BYTES for vector in vectors}
        if dimensions is not None and found - {dimensions}:
            raise BadRequest(f"The model's vectors have {max(found)} dimensions, not {dimensions}.")
        return vectors


class _Builds:
    """Which build of a model the back end has: its digest, else where the back end is. Asked again now and then, since
    a name may come to stand for another build."""

    def __init__(self, provider: LlmProvider) -> None:
        self._provider = provider
        self._digests: dict[str, str] = {}
        self._asked_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def of(self, model: str) -> str:
        clock = asyncio.get_running_loop().time
        async with self._one_at_a_time:
            if clock() > self._asked_at + _BUILDS_HOLD_S:
                self._asked_at = clock()
                try:
                    listed = await self._provider.models()
                    self._digests = {info.name: info.digest for info in listed if info.digest}
                except LlmError:
                    pass  # what was known holds until it answers
        name = served_name(model, tuple(self._digests))
        return self._digests[name] if name else self._provider.endpoint


def _packed(vectors: Sequence[bytes], dimensions: int) -> Vectors:
    if sum(map(len, vectors)) > MAX_VECTOR_BYTES:
        most = MAX_VECTOR_BYTES // (_FLOAT_BYTES * dimensions)
        raise BadRequest(f"{len(vectors)} vectors of {dimensions} are too much for one reply: ask for {most} at once.")
    return Vectors(dimensions=dimensions, data=b64encode(b"".join(vectors)).decode())
