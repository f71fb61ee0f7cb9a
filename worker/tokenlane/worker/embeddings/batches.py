"""Batches the texts of waiting embed requests into calls to one provider.

One call runs at a time, and the requests that arrive meanwhile form the next batch, so no request waits for company. A
batch is for one model and one vector size. Requests take turns at filling it, so a large one does not hold up small
ones. A server that accepts fewer texts in one call gets smaller batches.
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
    """How large a batch may be.

    `texts`, `characters`: in one call, unless a single text is longer. `turn`: texts that one request adds to a batch
    before the others have had their turn.
    """

    texts: int = 256
    characters: int = 1024 * 1024
    turn: int = 32


@dataclass(eq=False)
class _Request:
    """`begun`: how many of its texts have been put into batches; `vectors`: those received so far."""

    model: str
    dimensions: int | None
    texts: Sequence[str] = field(repr=False)
    alone: bool
    ended: asyncio.Future[None]
    vectors: list[bytes] = field(default_factory=list, repr=False)
    begun: int = 0

    @property
    def rest(self) -> int:
        return 0 if self.ended.done() else len(self.texts) - self.begun


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
        self._accepted: dict[str, int] = {}
        """How many texts the server accepts in one call, by model, if it has stated a number."""

    async def vectors(
        self, model: str, texts: Sequence[str], *, dimensions: int | None = None, alone: bool = False
    ) -> list[bytes]:
        """Return the vectors of the texts, in their order, as little-endian float32.

        Args:
            dimensions: numbers per vector, for models that support a choice.
            alone: share no call with other requests, because this request may have made an earlier call fail.

        Raises:
            LlmError: as the provider raises. An error caused by the texts of one request ends that request only.

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
        """Make the calls, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            while batch := self._next_batch():
                pending = [batch]
                while pending:
                    pending[:0] = await self._embed(pending.pop(0))

    def _next_batch(self) -> Sequence[_Part]:
        self._waiting = deque(request for request in self._waiting if request.rest)
        if not self._waiting:
            return ()
        first = self._waiting[0]
        key = (first.model, first.dimensions)
        alike = [each for each in self._waiting if (each.model, each.dimensions) == key and not each.alone]
        taken = self._take_turns([first] if first.alone else alike, self._accepted.get(first.model, self._limits.texts))
        self._waiting = deque(
            [request for request in self._waiting if request not in taken] + [each for each in taken if each.rest]
        )
        return [_Part(each, each.texts[each.begun - count : each.begun]) for each, count in taken.items()]

    def _take_turns(self, requests: Sequence[_Request], most: int) -> dict[_Request, int]:
        """Choose up to `most` texts for the next batch; returns how many of each request."""
        taken: dict[_Request, int] = {}
        turns = deque(requests)
        texts = characters = 0
        while turns and texts < most:
            request = turns.popleft()
            for _ in range(min(self._limits.turn, request.rest, most - texts)):
                characters += len(request.texts[request.begun])
                if texts and characters > self._limits.characters:
                    return taken
                request.begun += 1
                taken[request] = taken.get(request, 0) + 1
                texts += 1
            if request.rest:
                turns.append(request)
        return taken

    async def _embed(self, batch: Sequence[_Part]) -> Sequence[Sequence[_Part]]:
        """Embed a batch, and answer or fail its requests; returns smaller batches to try in its place, if any."""
        batch = [part for part in batch if not part.request.ended.done()]
        if not batch:
            return ()
        model = batch[0].request.model
        texts = list(dict.fromkeys(text for part in batch for text in part.texts))
        if len(texts) > self._accepted.get(model, len(texts)):
            return _split(batch)
        try:
            vectors = await self._call(batch, texts)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
        except Exception as error:
            # Without a number, the length of the texts may be the cause, and the next texts may be shorter.
            if isinstance(error, TooManyTexts) and error.most is not None and error.most < len(texts):
                self._accepted[model] = error.most
            if halves := _halves(batch, error):
                return halves
            _fail(batch, error)
        else:
            _answer(batch, vectors)
        return ()

    async def _call(self, batch: Sequence[_Part], texts: Sequence[str]) -> dict[str, bytes]:
        """Have the model server embed the texts; returns each text's vector."""
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


def _answer(batch: Sequence[_Part], vectors: dict[str, bytes]) -> None:
    for part in batch:
        request = part.request
        if not request.ended.done():
            request.vectors.extend(vectors[text] for text in part.texts)
            if len(request.vectors) == len(request.texts):
                request.ended.set_result(None)


def _fail(batch: Sequence[_Part], error: Exception) -> None:
    for part in batch:
        if not part.request.ended.done():
            # A copy for each request: its worker adds to the error where it happened.
            copy = LlmError.from_report(error.report()) if isinstance(error, LlmError) else error
            part.request.ended.set_exception(copy)


def _halves(batch: Sequence[_Part], error: Exception) -> Sequence[Sequence[_Part]]:
    """The smaller batches to try in place of a failed batch; none if they would fail too.

    The texts of one request may have caused the failure, or the server accepts fewer texts in one call and says so in
    words that we do not recognise. Errors that may pass are not retried here: a request that comes again comes alone.
    """
    if not isinstance(error, LlmError) or error.retryable or isinstance(error, Unauthorized | ModelNotFound):
        return ()
    if len(batch) == 1 and (not isinstance(error, BadRequest) or isinstance(error, ContextTooLong)):
        return ()
    return _split(batch)


def _split(batch: Sequence[_Part]) -> Sequence[Sequence[_Part]]:
    """Split a batch in two: several requests, or the texts of one; nothing if it is a single text."""
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
