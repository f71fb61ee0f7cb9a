"""Answers a lane's embed requests, with vectors from the cache or from the model server."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeAlias

from tokenlane.routing.contract.errors import BadRequest, ContextTooLong, LlmError, ProviderDown
from tokenlane.routing.contract.requests import EmbedRequest
from tokenlane.routing.contract.results import Vectors
from tokenlane.routing.contract.worker_report import Hits
from tokenlane.routing.decide.candidates import served_name
from tokenlane.worker.providers import Embeds, LlmProvider

from .batches import Batches
from .fallback_model import FastText
from .row_codec import Origin
from .vector_cache import VectorCache

MAX_VECTOR_BYTES = 16 * 1024 * 1024
"""The limit for the vectors of one request, which travel in one message."""
_DIGESTS_MAX_AGE_S = 60.0
_FLOAT_BYTES = 4

Calling: TypeAlias = Callable[[], AbstractContextManager[object]]
_Compute: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[bytes]]]


class Embedder:
    """Answers the embed requests of one lane. Start `run()` as a background task.

    Args:
        provider_name: the name of the provider in the settings.
        cache: the cache of the vectors that this host has computed; None to compute every vector.
    """

    def __init__(self, provider: LlmProvider, provider_name: str, cache: VectorCache | None = None) -> None:
        self._provider = provider
        self._provider_name = provider_name
        self._cache = cache
        self._batches = Batches(provider) if isinstance(provider, Embeds) else None
        self._is_fallback = isinstance(provider, FastText)
        self._digests: dict[str, str] = {}
        self._digests_read_at = float("-inf")
        self._reading_digests = asyncio.Lock()

    async def run(self) -> None:
        """Call the model server for waiting requests until cancelled."""
        if self._batches is not None:
            await self._batches.run()

    def cache_hits(self) -> Hits:
        """The cache hits since the worker started; zeros without a cache."""
        cache = self._cache
        return Hits() if cache is None else Hits(found=cache.hits, asked=cache.hits + cache.misses)

    def check_fallback(self, request: EmbedRequest) -> None:
        """Return if the request accepts vectors from this lane.

        Raises:
            ProviderDown: this is the fallback lane, and the request excludes it with `fallback="error"`.
        """
        if self._is_fallback and request.fallback == "error":
            raise ProviderDown(
                "Only the fallback lane can embed now, and the request excludes it: start a worker whose server has "
                "an embedding model, or leave out `fallback`.",
                retryable=False,
            )

    async def embed(
        self, request: EmbedRequest, model: str, *, alone: bool = False, calling: Calling = nullcontext
    ) -> tuple[Vectors, bool]:
        """Return the vectors of the request's texts, in their order, and whether the model server computed any of them.

        Args:
            alone: share no call with other requests, because this request may have made an earlier call fail.
            calling: the context of a call of the model server, if one is needed.

        Raises:
            BadRequest: the provider cannot embed, the model does not support the requested dimensions, or the vectors
                are too many for one message.
            LlmError: the provider failed.
        """

        async def compute(texts: Sequence[str]) -> Sequence[bytes]:
            if not texts:
                return ()
            with calling():
                return await self._compute(texts, request, model, alone)

        if self._cache is None:
            vectors, computed = await compute(request.inputs), len(request.inputs)
        else:
            vectors, computed = await self._look_up_or_compute(self._cache, request, model, compute)
        dimensions = len(vectors[0]) // _FLOAT_BYTES
        if sum(map(len, vectors)) > MAX_VECTOR_BYTES:
            limit = MAX_VECTOR_BYTES // (_FLOAT_BYTES * dimensions)
            raise BadRequest(
                f"{len(vectors)} vectors of {dimensions} dimensions are too many for one request: the limit is {limit}."
            )
        return Vectors(dimensions=dimensions, data=b64encode(b"".join(vectors)).decode()), computed > 0

    async def _look_up_or_compute(
        self, cache: VectorCache, request: EmbedRequest, model: str, compute: _Compute
    ) -> tuple[Sequence[bytes], int]:
        """The vectors of the texts, and how many of them the model server computed."""
        texts = request.inputs
        parameters = "" if request.dimensions is None else json.dumps({"dimensions": request.dimensions})
        origin = Origin(self._provider_name, model, await self._model_build(model), parameters)
        known = await cache.get(origin, texts)
        missing = list(dict.fromkeys(text for text, vector in zip(texts, known, strict=True) if vector is None))
        fresh = dict(zip(missing, await compute(missing), strict=True))
        vectors = [vector or fresh[text] for text, vector in zip(texts, known, strict=True)]
        if len({len(vector) for vector in vectors}) > 1:
            # The name now stands for another model, though no new digest was reported: the cached vectors are useless.
            missing = list(dict.fromkeys(texts))
            fresh = dict(zip(missing, await compute(missing), strict=True))
            vectors = [fresh[text] for text in texts]
        cache.put(origin, missing, [fresh[text] for text in missing])
        return vectors, len(missing)

    async def _compute(self, texts: Sequence[str], request: EmbedRequest, model: str, alone: bool) -> Sequence[bytes]:
        """Compute the vectors of the texts, in their order, without the cache."""
        if self._batches is None:
            raise BadRequest("This lane's provider cannot embed: choose a lane with an embedding model.")
        dimensions = request.dimensions
        try:
            vectors = await self._batches.vectors(model, texts, dimensions=dimensions, alone=alone)
        except ContextTooLong as error:
            longest, cause = max(map(len, texts)), error.message.partition(":")[0].removesuffix(".")
            raise ContextTooLong(
                f"{cause}; the longest of {len(texts)} texts has {longest} characters: split "
                "long texts, and embed the parts.",
                detail=error.detail,
            ) from None
        sizes = {len(vector) // _FLOAT_BYTES for vector in vectors}
        if dimensions is not None and sizes - {dimensions}:
            raise BadRequest(
                f"The model's vectors have {max(sizes)} dimensions, not {dimensions}: leave out `dimensions`."
            )
        return vectors

    async def _model_build(self, model: str) -> str:
        """The digest of the model or, if it is unknown, the model server's endpoint.

        Digests are read again after a minute, since a model's name may come to stand for another build.
        """
        clock = asyncio.get_running_loop().time
        async with self._reading_digests:
            if clock() > self._digests_read_at + _DIGESTS_MAX_AGE_S:
                self._digests_read_at = clock()
                with suppress(LlmError):  # the known digests stay in use until the model server answers
                    listed = await self._provider.models()
                    self._digests = {info.name: info.digest for info in listed if info.digest}
        name = served_name(model, tuple(self._digests))
        return self._digests[name] if name else self._provider.endpoint
