"""Batches the texts of waiting embed requests into calls to one provider.

One call runs at a time. The requests that arrive during a call form the next batch, so no request waits just to share
a call. A batch is for one model and one vector size. Requests take turns to fill it, so a large request does not hold
up small ones. A model server that accepts fewer texts in one call gets smaller batches.
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    LlmError,
    ModelNotFound,
    ProviderDown,
    Unauthorized,
)
from tokenlane.worker.providers import Embeds, TooManyTexts


@dataclass(frozen=True)
class BatchLimits:
    """Limits of a batch.

    `texts`, `characters`: the most in one call; only a single text may be longer. `turn`: how many texts one request
    adds to a batch before the next request has its turn.
    """

    texts: int = 256
    characters: int = 1024 * 1024
    turn: int = 32


@dataclass(eq=False)
class _Request:
    """A request for vectors. `taken_count`: how many of its texts have been put into batches. `vectors`: the vectors
    received so far, in the order of the texts."""

    model: str
    dimensions: int | None
    texts: Sequence[str] = field(repr=False)
    alone: bool
    ended: asyncio.Future[None]
    vectors: list[bytes] = field(default_factory=list, repr=False)
    taken_count: int = 0

    @property
    def remaining(self) -> int:
        """How many texts still have to be put into batches; 0 if nobody waits for the vectors any more."""
        return 0 if self.ended.done() else len(self.texts) - self.taken_count


@dataclass(frozen=True)
class _Part:
    """The texts of one request in a batch."""

    request: _Request
    texts: Sequence[str] = field(repr=False)


class Batches:
    """The embedding calls to one provider. Start `run()` as a background task."""

    def __init__(self, provider: Embeds, limits: BatchLimits = BatchLimits()) -> None:  # frozen
        self._provider = provider
        self._limits = limits
        self._waiting: deque[_Request] = deque()
        self._work = asyncio.Event()
        self._call_task: asyncio.Task[list[list[float]]] | None = None
        self._call_parts: Sequence[_Part] = ()
        self._accepted_counts: dict[str, int] = {}
        """By model: how many texts the model server accepts in one call, if it has stated a number."""

    async def vectors(
        self, model: str, texts: Sequence[str], *, dimensions: int | None = None, alone: bool = False
    ) -> list[bytes]:
        """Return the vectors of the texts, in their order, as little-endian float32.

        Args:
            dimensions: numbers per vector, for models that support a choice.
            alone: share no call with other requests, because this request may have made an earlier call fail.

        Raises:
            LlmError: the call failed. An error that the texts of one request cause fails only that request.

        Cancellation: a call is cancelled when no request waits for it any more.
        """
        if not texts:
            return []
        request = _Request(model, dimensions, texts, alone, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._work.set()
        try:
            await request.ended
        finally:
            request.ended.cancel()
            if self._call_task is not None and all(part.request.ended.done() for part in self._call_parts):
                self._call_task.cancel()
        return request.vectors

    async def run(self) -> None:
        """Call the provider for waiting requests until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while batch := self._next_batch():
                pending = [batch]
                while pending:
                    pending[:0] = await self._embed_batch(pending.pop(0))

    def _next_batch(self) -> Sequence[_Part]:
        self._waiting = deque(request for request in self._waiting if request.remaining)
        if not self._waiting:
            return ()
        first = self._waiting[0]
        key = (first.model, first.dimensions)
        alike = [each for each in self._waiting if (each.model, each.dimensions) == key and not each.alone]
        taken = self._take_turns(
            [first] if first.alone else alike, self._accepted_counts.get(first.model, self._limits.texts)
        )
        self._waiting = deque(
            [request for request in self._waiting if request not in taken] + [each for each in taken if each.remaining]
        )
        return [_Part(each, each.texts[each.taken_count - count : each.taken_count]) for each, count in taken.items()]

    def _take_turns(self, requests: Sequence[_Request], limit: int) -> dict[_Request, int]:
        """Choose up to `limit` texts for the next batch. Return how many come from each request."""
        taken: dict[_Request, int] = {}
        turns = deque(requests)
        texts = characters = 0
        while turns and texts < limit:
            request = turns.popleft()
            for _ in range(min(self._limits.turn, request.remaining, limit - texts)):
                characters += len(request.texts[request.taken_count])
                if texts and characters > self._limits.characters:
                    return taken
                request.taken_count += 1
                taken[request] = taken.get(request, 0) + 1
                texts += 1
            if request.remaining:
                turns.append(request)
        return taken

    async def _embed_batch(self, batch: Sequence[_Part]) -> Sequence[Sequence[_Part]]:
        """Embed a batch, and complete or fail its requests. Return smaller batches to try instead, if any."""
        batch = [part for part in batch if not part.request.ended.done()]
        if not batch:
            return ()
        model = batch[0].request.model
        texts = list(dict.fromkeys(text for part in batch for text in part.texts))
        if len(texts) > self._accepted_counts.get(model, len(texts)):
            return _split(batch)
        try:
            vectors = await self._call(batch, texts)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
        except Exception as error:
            # Without a stated number, the length of these texts may be the cause, and later texts may be shorter.
            if isinstance(error, TooManyTexts) and error.most is not None and error.most < len(texts):
                self._accepted_counts[model] = error.most
            if smaller := _smaller_batches(batch, error):
                return smaller
            _fail_requests(batch, error)
        else:
            _deliver(batch, vectors)
        return ()

    async def _call(self, batch: Sequence[_Part], texts: Sequence[str]) -> dict[str, bytes]:
        """Have the model server embed the texts. Return the vector of each text."""
        request = batch[0].request
        self._call_task = asyncio.create_task(self._provider.embed(texts, request.model, request.dimensions))
        self._call_parts = batch
        try:
            vectors = await self._call_task
        finally:
            self._call_task, self._call_parts = None, ()
        if len(vectors) != len(texts):
            raise ProviderDown(
                f"The model server returned {len(vectors)} vectors for {len(texts)} texts.", retryable=False
            )
        return dict(zip(texts, map(_little_endian, vectors), strict=True))


def _deliver(batch: Sequence[_Part], vectors: dict[str, bytes]) -> None:
    for part in batch:
        request = part.request
        if not request.ended.done():
            request.vectors.extend(vectors[text] for text in part.texts)
            if len(request.vectors) == len(request.texts):
                request.ended.set_result(None)


def _fail_requests(batch: Sequence[_Part], error: Exception) -> None:
    for part in batch:
        if not part.request.ended.done():
            # Each request gets a copy, because its attempt adds the lane and the model to the error.
            copy = LlmError.from_report(error.report()) if isinstance(error, LlmError) else error
            part.request.ended.set_exception(copy)


def _smaller_batches(batch: Sequence[_Part], error: Exception) -> Sequence[Sequence[_Part]]:
    """The smaller batches to try in place of a failed batch; none if they would fail too.

    The texts of one request may have caused the failure, or the server accepts fewer texts in one call and reports
    that in an error we do not recognise. Retryable errors are not retried here: the next attempts share no call.
    """
    if not isinstance(error, LlmError) or error.retryable or isinstance(error, Unauthorized | ModelNotFound):
        return ()
    if len(batch) == 1 and (not isinstance(error, BadRequest) or isinstance(error, ContextTooLong)):
        return ()
    return _split(batch)


def _split(batch: Sequence[_Part]) -> Sequence[Sequence[_Part]]:
    """Split a batch in two: its requests or, if there is only one, its texts. Return nothing for a single text."""
    if len(batch) > 1:
        half = len(batch) // 2
        return batch[:half], batch[half:]
    (part,) = batch
    half = len(part.texts) // 2
    return ([_Part(part.request, part.texts[:half])], [_Part(part.request, part.texts[half:])]) if half else ()


def _little_endian(vector: Sequence[float]) -> bytes:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
